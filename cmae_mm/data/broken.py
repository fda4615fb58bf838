"""Which images of a data set cannot be read, known to all loader processes."""

from __future__ import annotations

import sys

import numpy as np
import torch

from cmae_mm.errors import UserError

NAMED = 3
"""So many files are named in a message."""

CONSEQUENCE = "; another one takes its place"


class TooManyBrokenError(UserError):
    """More images are broken than allowed.

    Raised in a loader process, it comes out of torch's ``DataLoader`` with the process's traceback in front of the
    sentence. That part is dropped.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message.rpartition(f"{type(self).__name__}: ")[2].strip())


class BrokenImages:
    """The broken images of one data set.

    One byte for each image, in memory shared by all processes that get the object by fork or spawn. Setting a byte
    twice changes nothing, so no lock is needed and no image is counted twice.

    Args:
        size: Images in the data set.
        max_broken: How many of them may be broken, as a fraction. If it is not 0, one always may.
    """

    def __init__(self, size: int, max_broken: float) -> None:
        self.size = size
        self.limit = max(1, int(max_broken * size)) if max_broken > 0 else 0
        # The last byte says whether a hook reports: loader processes may have been started before it came.
        self._flags = torch.zeros(size + 1, dtype=torch.uint8).share_memory_()

    def __contains__(self, i: int) -> bool:
        return bool(self._flags[i])

    def __len__(self) -> int:
        return int(np.count_nonzero(self._flags[:-1].numpy()))

    def report_elsewhere(self) -> None:
        """Let processes that find a broken image write nothing: the caller reports what `found` returns."""
        self._flags[-1] = 1

    def add(self, i: int, sentence: str) -> None:
        """Note a broken image; a new one is reported on standard error, once, unless a hook reports.

        Args:
            i: Its number.
            sentence: Which image it is and what is wrong.
        """
        new = i not in self
        self._flags[i] = 1
        if new and not self._flags[-1]:
            print(f"warning: {sentence}{CONSEQUENCE}", file=sys.stderr, flush=True)

    def found(self) -> list[int]:
        """The numbers of all broken images so far."""
        return np.flatnonzero(self._flags[:-1].numpy()).tolist()

    def error(self, count: int, names: list[str]) -> TooManyBrokenError:
        """The error for too many broken images.

        Args:
            count: How many there are.
            names: Of some of them.
        """
        return TooManyBrokenError(
            f"{count} of {self.size} images cannot be read, and only {self.limit} may (max_broken of the data set), "
            f"for example {', '.join(names[:NAMED])}; copy or download them again, remove them, or raise max_broken"
        )
