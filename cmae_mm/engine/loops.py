"""mmengine's train loops, which a resumed run enters where the stopped one left them."""

from __future__ import annotations

from typing import Any

from mmengine.registry import LOOPS
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop
from mmengine.runner.loops import _InfiniteDataloaderIterator

from cmae_mm.data.resumable import ResumableBatches, make_resumable


def resumable_loop(loop_cfg: dict[str, Any]) -> dict[str, Any]:
    """Name the loops of this module where a config names those of mmengine.

    Args:
        loop_cfg: ``train_cfg`` of a config.

    Returns:
        A new dict.
    """
    cfg = dict(loop_cfg)
    by_epoch = cfg.pop("by_epoch", None)
    kind = cfg.pop("type", None) or (EpochBasedTrainLoop if by_epoch else IterBasedTrainLoop)
    kind = LOOPS.get(kind) if isinstance(kind, str) else kind
    own = {EpochBasedTrainLoop: ResumableEpochLoop, IterBasedTrainLoop: ResumableIterLoop}
    return {"type": own.get(kind, kind), **cfg}


@LOOPS.register_module()
class ResumableEpochLoop(EpochBasedTrainLoop):
    """mmengine's loop by epochs, which can go on in mid-epoch. For the arguments see mmengine."""

    accumulate = 1  # batches in an iteration

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        make_resumable(self.dataloader, self.runner.seed)
        self._first = 0  # iterations of the coming epoch that are done

    def start_at(self, epoch: int, done: int) -> None:
        """Go on here.

        Args:
            epoch: From 0.
            done: Iterations of that epoch that were done before.
        """
        self._epoch, self._first = epoch, done
        self._iter = epoch * len(self.dataloader) + done

    def done_in_epoch(self, epoch: int, iteration: int) -> int:
        """Count the iterations of an epoch that a run has done.

        Args:
            epoch: From 0.
            iteration: Iterations since the start of the run.
        """
        return max(0, iteration - epoch * len(self.dataloader))

    def run_epoch(self) -> None:
        """Train for an epoch, or for the rest of one."""
        self.runner.call_hook("before_train_epoch")
        self.runner.model.train()
        first, self._first = self._first, 0
        _skip(self.dataloader, first * self.accumulate)
        for index, batch in enumerate(self.dataloader, first):
            self.run_iter(index, batch)
        self.runner.call_hook("after_train_epoch")
        self._epoch += 1


@LOOPS.register_module()
class ResumableIterLoop(IterBasedTrainLoop):
    """mmengine's loop by iterations, which goes on with any sampler. For the arguments see mmengine."""

    accumulate = 1

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        make_resumable(self.dataloader, self.runner.seed)
        self.dataloader_iterator = _Iterator(self.dataloader)


class _Iterator(_InfiniteDataloaderIterator):
    """Skips by the sampler alone, whatever it is; mmengine's would load and throw away for most."""

    def skip_iter(self, num_iters: int) -> None:
        """Begin after so many items of the loader."""
        loader = self._dataloader
        batches = getattr(loader, "batch_sampler", None)
        if not isinstance(batches, ResumableBatches):
            super().skip_iter(num_iters)
            return
        count = getattr(loader, "count", 1)
        if not batches.endless:
            self._epoch, num_iters = divmod(num_iters, len(loader))
            if hasattr(batches.sampler, "set_epoch"):
                batches.sampler.set_epoch(self._epoch)
        batches.skip(num_iters * count)


def _skip(loader: Any, batches: int) -> None:
    if batches:
        loader.batch_sampler.skip(batches)
