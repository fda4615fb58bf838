"""Many strings in two arrays."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

_CODING = ("utf-8", "surrogateescape")  # file names need not be text


class Names:
    """A read-only list of strings in two NumPy arrays.

    A Python list of a million strings is copied page by page into every loader process, because reading a string
    changes its reference count. Arrays stay shared.

    Args:
        text: (bytes,) uint8, all strings one after the other.
        ends: (n,) int64, where each string ends in ``text``.
    """

    def __init__(self, text: np.ndarray, ends: np.ndarray) -> None:
        self.text = text
        self.ends = ends

    @classmethod
    def of(cls, strings: Iterable[str]) -> Names:
        """Pack strings."""
        coded = [s.encode(*_CODING) for s in strings]
        ends = np.cumsum([len(c) for c in coded], dtype=np.int64)
        return cls(np.frombuffer(b"".join(coded), np.uint8), ends)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, i: int) -> str:
        start = self.ends[i - 1] if i else 0
        return self.text[start : self.ends[i]].tobytes().decode(*_CODING)
