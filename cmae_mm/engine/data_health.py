"""Tells of images that cannot be read, and stops a run that has too many of them."""

from __future__ import annotations

from typing import Any

from mmengine.dist import all_gather_object
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from cmae_mm.data.broken import CONSEQUENCE, NAMED, BrokenImages


@HOOKS.register_module()
class DataHealthHook(Hook):
    """Warns once of each broken image of a `MasterImages`, whatever process met it, and counts them.

    The loader processes mark broken images in shared memory. Every ``interval`` iterations and at the end of an epoch
    all processes exchange what is new; the first one writes a warning for each image, and the number of different
    broken images so far goes to the log as ``broken_images``, once there is one. If there are more than the data
    set allows, all processes stop. A loader process that meets too many by itself stops the run at once.

    Does nothing where the training data is of another kind.

    Args:
        interval: Iterations between two exchanges.
    """

    priority = "NORMAL"  # before LoggerHook

    def __init__(self, interval: int = 50) -> None:
        self.interval = interval
        self._dataset: Any = None
        self._known: dict[int, str] = {}

    def before_train(self, runner: Any) -> None:
        """Take over the reports of the loader processes."""
        dataset = getattr(runner.train_dataloader, "dataset", None)
        if isinstance(getattr(dataset, "broken", None), BrokenImages):
            self._dataset = dataset
            self._dataset.broken.report_elsewhere()

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Look, where a look is due.

        Raises:
            UserError: More images are broken than the data set allows.
        """
        if self._dataset is not None and (
            self.every_n_inner_iters(batch_idx, self.interval)
            or self.end_of_epoch(runner.train_dataloader, batch_idx)
        ):
            self.look(runner)

    def look(self, runner: Any) -> None:
        """Exchange, warn, log and stop if need be; called in all processes.

        Raises:
            UserError: More images are broken than the data set allows.
        """
        own = {i: self._describe(i) for i in self._dataset.broken.found() if i not in self._known}
        for found in all_gather_object(own):
            for i, sentence in found.items():
                if i not in self._known:
                    self._known[i] = sentence
                    runner.logger.warning(sentence + CONSEQUENCE)
        count = len(self._known)
        if count:
            runner.message_hub.update_scalar("train/broken_images", count)
        if count > self._dataset.broken.limit:
            raise self._dataset.broken.error(
                count, [self._dataset.name(i) for i in sorted(self._known)[:NAMED]]
            )

    def _describe(self, i: int) -> str:
        """What is wrong, found out by reading the image again: the mark says only that something was."""
        return self._dataset.problem(i) or (
            f"could not read the image {self._dataset.name(i)}, but now can: the storage is not reliable"
        )
