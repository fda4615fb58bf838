"""A run that is asked to stop saves what it has and leaves; all processes after the same iteration."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any, NoReturn

import torch
from mmengine import dist
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from cmae_mm.engine.checkpoint_hook import checkpoint_hook
from cmae_mm.engine.environment import leave_processes, timeout_of
from cmae_mm.engine.finite_hook import EXIT_CODE
from cmae_mm.engine.signals import SignalWatch
from cmae_mm.errors import UserError

STOPPED = 75  # EX_TEMPFAIL of sysexits.h: not done, worth another try
_GO_ON, _STOP, _CANNOT_SAVE = 0, 1, 2


class Agreement:
    """The highest vote of all processes, which each learns one call later.

    The exchange runs while the next iteration is computed, among CPUs, so that no device waits for it.

    Args:
        timeout: Seconds that a process waits for the others.
    """

    def __init__(self, timeout: float = 1800.0) -> None:
        several, limit = dist.get_world_size() > 1, timedelta(seconds=timeout)
        self._group = torch.distributed.new_group(backend="gloo", timeout=limit) if several else None
        self._vote = torch.zeros(1, dtype=torch.int32)
        self._work: Any = None

    def vote(self, value: int) -> int:
        """Hand in a vote; all processes must call this equally often.

        Args:
            value: Not negative.

        Returns:
            The highest of the call before; in a single process ``value`` itself.
        """
        if self._group is None:
            return value
        highest = 0
        if self._work is not None:
            self._work.wait()
            highest = int(self._vote)
        if highest == 0:
            self._vote.fill_(value)
            op = torch.distributed.ReduceOp.MAX
            self._work = torch.distributed.all_reduce(self._vote, op, group=self._group, async_op=True)
        return highest


@HOOKS.register_module()
class StopHook(Hook):
    """Ends a run on SIGTERM or SIGUSR1: a checkpoint is saved after the iteration, then all processes leave.

    The exit code is 75. A second SIGTERM ends a process at once, with 143, and so does the end of ``grace``. An
    evaluation is not interrupted: the run leaves after it, or at the end of ``grace`` without a new checkpoint.

    Also stops all processes when a checkpoint could not be written in the background.

    Args:
        grace: Seconds from the signal on. Iteration and checkpoint must take less together.
    """

    priority = "LOWEST"

    def __init__(self, grace: float = 120.0) -> None:
        self.grace = grace
        self._watch: SignalWatch | None = None
        self._agreement: Agreement | None = None

    def before_train(self, runner: Any) -> None:
        """Take signals from here on."""
        self._agreement = Agreement(timeout_of(runner.cfg))
        if threading.current_thread() is threading.main_thread():  # others may not
            self._watch = SignalWatch(self.grace)

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Leave if any process was asked to."""
        assert self._agreement is not None
        asked = self._watch is not None and self._watch.request is not None
        own = _CANNOT_SAVE if runner.writer.failed else _STOP if asked else _GO_ON
        verdict = self._agreement.vote(own)
        if verdict == _CANNOT_SAVE:
            runner.writer.check()
            raise SystemExit(EXIT_CODE)
        if verdict == _STOP and runner.iter + 1 < runner.max_iters:
            self._leave(runner)

    def close(self) -> None:
        """Give signals back; the runner calls this at the end of training, however it ends."""
        if self._watch is not None:
            self._watch.close()

    def _leave(self, runner: Any) -> NoReturn:
        hook = checkpoint_hook(runner)
        if hook is not None:
            hook.save_now(runner, whole=True)
        complaint = [""]
        try:
            runner.writer.wait()
        except UserError as error:
            complaint = [str(error)]
        runner.stop_together(complaint)  # waits for the first process, which writes
        if runner.rank == 0:
            name = self._watch.request.name if self._watch and self._watch.request else "another process"
            saved = (
                f"saved {hook.last_ckpt}; go on with --resume" if hook else "this run saves no checkpoints"
            )
            runner.logger.warning(
                f"stopped by {name} after iteration {runner.iter + 1} (epoch {runner.epoch + 1}): {saved}"
            )
        if self._watch is not None:
            self._watch.close(ignore=True)
        leave_processes()
        raise SystemExit(STOPPED)
