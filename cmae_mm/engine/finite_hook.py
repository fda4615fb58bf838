"""A run whose loss is not a number stops at once, and what it saved before stays good."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import torch
from mmengine import dist
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch import Tensor, nn

from cmae_mm.engine.environment import bare_model
from cmae_mm.engine.sharding import own_part
from cmae_mm.errors import UserError

EXIT_CODE = 2
_BROKEN_WEIGHTS = "weights are not finite although the losses are"


@HOOKS.register_module()
class FiniteLossHook(Hook):
    """Stops all processes in the iteration in which a loss of any of them is not finite.

    Runs first after the step, before any hook that saves. To look before the step would make the CPU
    wait for the forward pass with nothing queued behind it; after it, mmengine reads the losses anyway. The
    weights of that step are lost with the process.

    Only losses count: under a loss scaler infinite gradients are normal. Without one they can spoil the weights after
    a finite loss, so the weights too are looked at, each epoch and before each checkpoint is written.
    """

    priority = "HIGHEST"

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Check the losses of all processes.

        Raises:
            UserError: A loss is NaN or infinite (process 0; the others exit quietly).
        """
        losses = {k: torch.as_tensor(v).detach().float() for k, v in (outputs or {}).items() if "loss" in k}
        if not losses:
            return
        values = torch.stack([v.reshape(()) for v in losses.values()])
        if not _everywhere(values.isfinite().all()):
            where = f"in iteration {runner.iter + 1} (epoch {runner.epoch + 1})"
            _stop(runner, where, _describe(list(losses), dist.all_gather(values)))

    def after_train_epoch(self, runner: Any) -> None:
        """Check the weights of all processes, before an old checkpoint makes room for a new one.

        Raises:
            UserError: A weight is NaN or infinite (process 0; the others exit quietly).
        """
        if not _everywhere(weights_are_finite(bare_model(runner))):
            _stop(runner, f"after epoch {runner.epoch + 1}", _BROKEN_WEIGHTS)

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Check the weights of process 0, the only one that saves.

        Raises:
            UserError: A weight is NaN or infinite.
        """
        if not weights_are_finite(bare_model(runner)):
            raise UserError(_report(runner, f"before saving in epoch {runner.epoch + 1}", _BROKEN_WEIGHTS))


def _stop(runner: Any, where: str, reason: str) -> NoReturn:
    """End all processes; only the first one says why."""
    sentence = _report(runner, where, reason) if runner.rank == 0 else ""
    dist.barrier()  # a launcher ends all processes when it sees the first one go
    if runner.rank != 0:
        raise SystemExit(EXIT_CODE)
    raise UserError(sentence)


def _report(runner: Any, where: str, reason: str) -> str:
    """The sentence; it is also logged, for those who look later."""
    advice = _advice(Path(runner.work_dir))
    sentence = f"training stopped {where}: {reason}; nothing was saved with it; {advice}"
    runner.logger.warning(sentence)
    return sentence


def weights_are_finite(model: nn.Module) -> Tensor:
    """Returns: A bool on the model's device, True if all its parameters and buffers are finite."""
    state = [own_part(t) for t in model.state_dict().values() if t.is_floating_point()]
    return torch.stack([t.isfinite().all() for t in state]).all()


def _everywhere(good: Tensor) -> bool:
    """Whether ``good`` holds in every process; each asks, so that all go on or all stop."""
    bad = 1 - good.float()
    dist.all_reduce(bad, op="max")
    return bad.item() == 0


def _describe(names: list[str], by_process: list[Tensor]) -> str:
    """All losses of the first process with a bad one."""
    rank, values = next((r, v) for r, v in enumerate(by_process) if not v.isfinite().all())
    listed = ", ".join(f"{n} {v:.4g}" for n, v in zip(names, values.tolist(), strict=True))
    where = f" in process {rank}" if len(by_process) > 1 else ""
    return f"the loss is not finite{where} ({listed})"


def _advice(work_dir: Path) -> str:
    """What to do. The learning rate comes from the checkpoint, so a lower one needs a new run."""
    note = work_dir / "last_checkpoint"
    saved = note.read_text().strip() if note.is_file() else ""
    if not saved:
        return "no checkpoint was written yet: start again with a lower optim_wrapper.optimizer.lr or longer warm-up"
    return (
        f"the last good checkpoint is {saved}: go on from it with --resume --cfg-options "
        "optim_wrapper.clip_grad.max_norm=1.0 (--resume alone draws the same again); if it stops again, start anew "
        "with a lower optim_wrapper.optimizer.lr"
    )
