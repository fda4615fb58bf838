"""Batches that can begin in the middle of an epoch, and samples whose random draws depend on their place alone.

The pipelines of OpenMMLab draw from the global generators of the loader processes. What a sample gets then depends on
everything that this process loaded before, which a run that goes on in mid-epoch cannot know. Here each sample
is numbered, and the generators are seeded from its number before it is loaded.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.dataset import InfiniteSampler
from mmengine.dist import get_dist_info
from torch.utils.data import DataLoader, Dataset, get_worker_info

from cmae_mm.data.masters import draw_key


class Place(NamedTuple):
    """An index of a data set, and which sample of the run it is.

    Attributes:
        row: Index of the data set.
        epoch: From 0; always 0 under a sampler without end.
        number: Of the sample in the epoch, counted over all processes.
    """

    row: int
    epoch: int
    number: int


class ResumableBatches:
    """A batch sampler around another one, which can leave out the first batches of its next pass.

    Args:
        batches: Yields lists of indices.
        sampler: What ``batches`` draws from; its ``epoch`` is that of the samples.
        places: Yield `Place` instead of bare indices.
    """

    def __init__(self, batches: Any, sampler: Any, places: bool) -> None:
        self._batches, self._places = batches, places
        self._skip = self._number = 0
        self.sampler = sampler
        self.endless = isinstance(sampler, InfiniteSampler)
        self._rank, self._world = get_dist_info()

    def skip(self, count: int) -> None:
        """Begin the next pass so many batches later. Nothing is loaded for those."""
        self._skip = count

    def __iter__(self) -> Iterator[list[Any]]:
        skip, self._skip = self._skip, 0
        epoch = getattr(self.sampler, "epoch", 0)
        if not self.endless:
            self._number = 0
        for count, batch in enumerate(self._batches):
            first, self._number = self._number, self._number + len(batch)
            if count >= skip:
                yield [self._place(epoch, first + i, index) for i, index in enumerate(batch)]

    def __len__(self) -> int:
        return len(self._batches)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_batches":  # asked for while it is copied
            raise AttributeError(name)
        return getattr(self._batches, name)

    def _place(self, epoch: int, number: int, index: Any) -> Any:
        return Place(index, epoch, number * self._world + self._rank) if self._places else index


class SeededSamples(Dataset):
    """A data set that takes a `Place`, and seeds all generators from it before the sample is made.

    Everything else is asked of, and set on, the data set inside. In a process that also trains, the generators are
    put back afterwards.

    Args:
        dataset: The data set.
        seed: Of the run.
    """

    def __init__(self, dataset: Any, seed: int) -> None:
        self.__dict__.update(_inside=dataset, _seed=seed)

    def __getitem__(self, place: Place | int) -> Any:
        if not isinstance(place, Place):
            return self._inside[place]
        key = draw_key(self._seed, place.epoch, place.number)
        if get_worker_info() is not None:
            seed_all(key)
            return self._inside[place.row]
        state = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
        seed_all(key)
        try:
            return self._inside[place.row]
        finally:
            random.setstate(state[0])
            np.random.set_state(state[1])
            torch.default_generator.set_state(state[2])

    def __len__(self) -> int:
        return len(self._inside)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_inside":  # asked for while it is copied to a process
            raise AttributeError(name)
        return getattr(self._inside, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._inside, name, value)


def seed_all(key: int) -> None:
    """Seed the global generators of Python, NumPy and torch (on the CPU).

    Args:
        key: 63 bits.
    """
    random.seed(key)
    np.random.seed([key & 0xFFFFFFFF, key >> 32])
    torch.default_generator.manual_seed(key)


def make_resumable(loader: DataLoader, seed: int) -> None:
    """Let a loader begin anywhere in an epoch with the samples, and the draws, that were still to come.

    A data set with ``set_seed`` (`MasterImages`) keeps its own draws. The loader gets a generator of its own: torch
    would take a number from the global one whenever an iterator is made.

    Args:
        loader: Changed in place; left alone if it makes no batches.
        seed: The same in all processes.
    """
    loader.generator = torch.Generator().manual_seed(seed)
    if loader.batch_sampler is None or isinstance(loader.batch_sampler, ResumableBatches):
        return
    own_draws = hasattr(loader.dataset, "set_seed")
    sampler: Any = getattr(loader.batch_sampler, "sampler", loader.sampler)
    # torch forbids to set these on a finished loader, as one in use would not follow; this one was just made.
    loader.__dict__["batch_sampler"] = ResumableBatches(loader.batch_sampler, sampler, places=not own_draws)
    if not own_draws:
        loader.__dict__["dataset"] = SeededSamples(loader.dataset, seed)
