"""Images in files whose classes stand in a list, not in the names of folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


class ListedSource:
    """Image files with labels.

    Args:
        files: In the order of the list.
        labels: -1 where not known.
        classes: Names in the order of the labels; empty where not known.
        kind: The layout, in words.
        where: What was found.
    """

    def __init__(
        self, files: Sequence[Path], labels: Sequence[int], classes: tuple[str, ...], kind: str, where: str
    ) -> None:
        self.files, self.labels = tuple(files), tuple(labels)
        self.classes, self.kind, self.where = classes, kind, where

    def __len__(self) -> int:
        return len(self.files)

    def read(self, i: int) -> bytes:
        """The bytes of image ``i``; OSError where they cannot be read."""
        return self.files[i].read_bytes()

    def label(self, i: int) -> int:
        """The class of image ``i`` or -1."""
        return self.labels[i]

    def name(self, i: int) -> str:
        """The path of image ``i``."""
        return str(self.files[i])
