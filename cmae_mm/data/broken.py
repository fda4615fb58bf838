"""Which images of a data set cannot be read, known to all loader processes."""

from __future__ import annotations

import sys

import torch

from cmae_mm.errors import UserError

NAMED = 3
"""So many files are named in a message."""


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
        self.announce = True
        """Whether the process that finds a broken image writes a line; off where a hook does it."""
        self._flags = torch.zeros(size, dtype=torch.uint8).share_memory_()

    def __contains__(self, i: int) -> bool:
        return bool(self._flags[i])

    def add(self, i: int, sentence: str) -> None:
        """Note a broken image.

        Args:
            i: Its number.
            sentence: Which image it is and what is wrong, for the user.
        """
        if i not in self:
            self._flags[i] = 1
            if self.announce:
                print(f"warning: {sentence}; another one takes its place", file=sys.stderr, flush=True)

    def found(self) -> list[int]:
        """The numbers of all broken images so far."""
        return self._flags.nonzero().flatten().tolist()

    def __len__(self) -> int:
        return int(self._flags.numpy().sum(dtype="int64"))

    def error(self, count: int, names: list[str]) -> TooManyBrokenError:
        """The error for too many broken images.

        Args:
            count: How many there are.
            names: Of some of them.
        """
        return TooManyBrokenError(
            f"{count} of {self.size} images cannot be read, and {self.limit} may (max_broken of the data set), for "
            f"example {', '.join(names[:NAMED])}; copy or download them again, remove them, or raise max_broken"
        )
