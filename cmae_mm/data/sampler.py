"""A sampler whose numbers carry the epoch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmengine.dataset import DefaultSampler
from mmpretrain.registry import DATA_SAMPLERS

from cmae_mm.errors import UserError


@DATA_SAMPLERS.register_module()
class EpochSampler(DefaultSampler):
    """mmengine's `DefaultSampler` that yields ``epoch * len(dataset) + i`` for image ``i``.

    Loader processes that live through many epochs and load ahead learn the epoch from the number itself. The seed
    that all processes of a run share is handed to the data set, so that all its draws follow from it.

    Args:
        dataset: A `MasterImages`.
        shuffle: Shuffle anew in each epoch.
        seed: The same in all processes; drawn and shared if None.
        round_up: Repeat images so that all processes get equally many.

    Raises:
        UserError: The data set does not know epochs.
    """

    def __init__(
        self, dataset: Any, shuffle: bool = True, seed: int | None = None, round_up: bool = True
    ) -> None:
        if not hasattr(dataset, "set_seed"):
            raise UserError(
                f"EpochSampler works with MasterImages, not with {type(dataset).__name__}; use DefaultSampler"
            )
        super().__init__(dataset, shuffle, seed, round_up)
        dataset.set_seed(self.seed)

    def __iter__(self) -> Iterator[int]:
        start = self.epoch * len(self.dataset)
        return (start + i for i in super().__iter__())
