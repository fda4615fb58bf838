"""How fast a run trains, whether it waits for data, and what memory it needs."""

from __future__ import annotations

import resource
import sys
import time
from typing import Any

import torch
from mmengine import dist
from mmengine.hooks import Hook, LoggerHook
from mmengine.registry import HOOKS

GIB = 1024**3
# mmengine copies the whole history of each logged value in each iteration; windows are far shorter than this.
HISTORY = 10_000


@HOOKS.register_module()
class ThroughputHook(Hook):
    """Logs ``images_per_s``, ``data_wait`` and ``memory_gib`` whenever mmengine's `LoggerHook` logs.

    The window is all iterations since the last line of the log. What lies between two epochs (checkpoints,
    evaluations) is in no window. Images are counted when they are trained on, so that accumulated
    batches count like others. mmengine reads the losses to the CPU in each iteration, which waits for the device:
    the times are those of finished work.

    ``images_per_s`` adds the images of all processes and divides by the longest time. ``data_wait`` is the share
    of the time, 0 to 1, in which a process had nothing to do but wait for its loader; of the process that
    waits most. ``memory_gib`` is the largest peak of any process since its start: tensors on a GPU,
    resident memory without loader processes on the CPU.

    Also shortens the histories that mmengine keeps for smoothing, which it would copy in each iteration.
    """

    priority = "NORMAL"  # before LoggerHook

    def __init__(self) -> None:
        self._logger: LoggerHook | None = None
        self._begin = self._idle = 0.0
        self._reset()

    def before_train(self, runner: Any) -> None:
        """Find the hook that logs, and ask to be told when an iteration is over."""
        self._logger = next((h for h in runner.hooks if isinstance(h, LoggerHook)), None)
        if not any(isinstance(h, _IterationOver) for h in runner.hooks):
            runner.register_hook(_IterationOver(self))

    def before_train_epoch(self, runner: Any) -> None:
        """Start the clock after what lay between two epochs."""
        self._begin = self._idle = time.perf_counter()

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Start the clock after an evaluation between two iterations."""
        self._begin = self._idle = time.perf_counter()

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Add the time from the end of the last iteration until this batch came."""
        self._wait += time.perf_counter() - self._idle

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Add one iteration, and publish the window where a line of the log is due."""
        now = time.perf_counter()
        self._seconds += now - self._begin
        self._images += len(data_batch["inputs"])
        self._begin = now
        if self._log_is_due(runner, batch_idx):
            self._publish(runner)
            self._reset()

    def iteration_over(self) -> None:
        """Note that all hooks are done: from here on the process waits for its loader."""
        self._idle = time.perf_counter()

    def _reset(self) -> None:
        self._images, self._seconds, self._wait = 0, 0.0, 0.0

    def _log_is_due(self, runner: Any, batch_idx: int) -> bool:
        """The condition of `LoggerHook.after_train_iter`."""
        if self._logger is None:
            return False
        if self.every_n_inner_iters(batch_idx, self._logger.interval):
            return True
        short = len(runner.train_dataloader) <= self._logger.interval
        return self.end_of_epoch(runner.train_dataloader, batch_idx) and (
            not self._logger.ignore_last or short
        )

    def _publish(self, runner: Any) -> None:
        own = [self._images, self._seconds, self._wait / self._seconds, peak_memory() / GIB]
        gathered = torch.stack(dist.all_gather(torch.tensor(own, dtype=torch.float64)))
        images = gathered[:, 0].sum().item()
        seconds, wait, memory = gathered[:, 1:].amax(dim=0).tolist()
        hub = runner.message_hub
        hub.update_scalar("train/images_per_s", images / seconds)
        hub.update_scalar("train/data_wait", wait)
        hub.update_scalar("train/memory_gib", memory)
        for history in hub.log_scalars.values():
            history.max_length = HISTORY


class _IterationOver(Hook):
    """Tells `ThroughputHook` when the last hook of an iteration has run; a hook has one priority only."""

    priority = "LOWEST"

    def __init__(self, throughput: ThroughputHook) -> None:
        self.throughput = throughput

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        self.throughput.iteration_over()


def peak_memory() -> int:
    """Returns: Bytes: the peak of tensors on this process's GPU, or of the process's resident memory."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage(2): bytes on macOS, KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
