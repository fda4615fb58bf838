"""Images in parquet files, as the Hugging Face hub has ImageNet: columns ``image`` (bytes, path) and ``label``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cmae_mm.errors import UserError


class ParquetSource:
    """Images in parquet files, in the order of files and rows. Reading runs fastest in this order.

    Args:
        files: Sorted parquet files of one split.
        classes: Names in the order of the labels.

    Raises:
        UserError: ``pyarrow`` is missing, a file is damaged or has other columns.
    """

    kind = "parquet files"

    def __init__(self, files: Sequence[Path], classes: tuple[str, ...]) -> None:
        self.files, self.classes = tuple(files), classes
        self.where = str(files[0].parent)
        pieces, labels = [], []
        for number, file in enumerate(files):
            try:
                parquet = _arrow().ParquetFile(file)
                labels.append(parquet.read(columns=["label"])["label"].to_numpy())
                for group in range(parquet.num_row_groups):
                    rows = parquet.metadata.row_group(group).num_rows
                    pieces.append(np.stack(np.broadcast_arrays(number, group, np.arange(rows)), axis=1))
                if "image" not in parquet.schema_arrow.names:
                    raise KeyError("image")
            except (KeyError, OSError, ValueError) as error:
                raise UserError(
                    f"{file}: is no parquet file with the columns image and label ({error}); download it again"
                ) from None
        self._rows = np.concatenate(pieces)
        self._labels = np.concatenate(labels)
        self._cached: tuple[tuple[int, int], Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cached": None}

    def __len__(self) -> int:
        return len(self._labels)

    def _image(self, i: int) -> dict[str, Any]:
        file, group, row = (int(n) for n in self._rows[i])
        if self._cached is None or self._cached[0] != (file, group):
            table = _arrow().ParquetFile(self.files[file]).read_row_group(group, columns=["image"])
            self._cached = ((file, group), table["image"])
        image: dict[str, Any] = self._cached[1][row].as_py()
        return image

    def read(self, i: int) -> bytes:
        """The bytes of image ``i``; OSError where they cannot be read."""
        data = self._image(i).get("bytes")
        if data is None:
            raise OSError("the row holds no bytes")
        return bytes(data)

    def label(self, i: int) -> int:
        """The class of image ``i`` or -1."""
        return int(self._labels[i])

    def name(self, i: int) -> str:
        """File, row and the path that the row tells."""
        return f"{self.files[int(self._rows[i][0])]}:{self._image(i).get('path') or f'row {i}'}"


def _arrow() -> Any:
    try:
        import pyarrow.parquet
    except ImportError:
        raise UserError(
            "parquet files are read with the package pyarrow, which is not installed; pip install pyarrow"
        ) from None
    return pyarrow.parquet
