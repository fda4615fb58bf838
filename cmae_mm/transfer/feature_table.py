"""Features of labelled images as probes read them: chosen parts side by side, from memory-mapped files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor


class FeatureTable:
    """Rows of features with their labels; nothing is read before it is asked for.

    Args:
        views: For each view the parts, each (images, width); they are put side by side.
        labels: (images,) int64.
        classes: Number of classes.
        rows: Only these rows, in this order; None for all.
    """

    def __init__(
        self,
        views: Sequence[Sequence[np.ndarray]],
        labels: np.ndarray,
        classes: int,
        rows: np.ndarray | None = None,
    ) -> None:
        self._views = [list(parts) for parts in views]
        self.rows = np.arange(len(labels)) if rows is None else np.asarray(rows, np.int64)
        self.labels = torch.from_numpy(np.asarray(labels, np.int64)[self.rows])
        self.classes = classes

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def views(self) -> int:
        """Number of views."""
        return len(self._views)

    @property
    def widths(self) -> list[int]:
        """Columns of each part."""
        return [part.shape[1] for part in self._views[0]]

    @property
    def width(self) -> int:
        """Columns of all parts."""
        return sum(self.widths)

    def subset(self, places: np.ndarray | Tensor) -> FeatureTable:
        """A table of some rows of this one.

        Args:
            places: Their places in this table.
        """
        chosen = FeatureTable.__new__(FeatureTable)
        chosen._views, chosen.classes = self._views, self.classes
        places = torch.as_tensor(places)
        chosen.rows, chosen.labels = self.rows[places.numpy()], self.labels[places]
        return chosen

    def take(self, places: Tensor | np.ndarray | slice, view: int = 0) -> Tensor:
        """Read some rows.

        Args:
            places: Their places in this table.
            view: Of which view.

        Returns:
            (n, width) on the CPU, in the type that is stored.
        """
        index = places if isinstance(places, slice) else np.asarray(places)
        chosen = self.rows[index]
        rows: np.ndarray | slice = chosen
        if isinstance(index, slice) and len(chosen) and (np.diff(chosen) == 1).all():  # one piece of the file
            rows = slice(int(chosen[0]), int(chosen[-1]) + 1)
        return torch.from_numpy(
            np.concatenate([np.asarray(part[rows]) for part in self._views[view]], axis=1)
        )

    def tiles(self, size: int, view: int = 0) -> Iterator[Tensor]:
        """Read all rows in pieces, each float32.

        Args:
            size: Rows of a piece.
            view: Of which view.
        """
        for start in range(0, len(self), size):
            yield self.take(slice(start, start + size), view).float()

    def reader(self, view: int, device: torch.device) -> Callable[[Tensor], Tensor]:
        """Make ready for many reads in random order: in the device's memory where there is room.

        Args:
            view: Of which view.
            device: Where batches are wanted.

        Returns:
            Turns places, an int64 tensor on the CPU, into (n, width) float32 on the device.
        """
        itemsize = sum(part.dtype.itemsize * part.shape[1] for part in self._views[view])
        if itemsize * len(self) > _room(device):
            return lambda places: self.take(places, view).to(device).float()
        held = self.take(slice(None), view).to(device)
        return lambda places: held[places.to(device)].float()


def _room(device: torch.device) -> float:
    """Bytes that may be taken: half of what is free."""
    if device.type == "cuda":
        return 0.5 * torch.cuda.mem_get_info(device)[0]
    return 0.5 * os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
