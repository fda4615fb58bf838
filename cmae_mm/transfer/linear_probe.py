"""A linear layer on cached features: MAE's recipe, and with other values MoCo v3's and DINO's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmpretrain.registry import TASK_UTILS
from torch import Tensor, nn
from torch.optim import SGD

from cmae_mm.errors import UserError
from cmae_mm.transfer.feature_table import FeatureTable
from cmae_mm.transfer.lars import LARS
from cmae_mm.transfer.probe_loop import Schedule, scores_in_parts, train_heads
from cmae_mm.transfer.probe_task import Outcome, Task, hits


class LinearHead:
    """Batch norm without scale and shift, then a linear layer; a normal start, cut at two standard deviations of 1.

    Args:
        width: Channels.
        classes: Number of classes.
        lr: Peak learning rate.
        optimizer: ``lars`` or ``sgd``.
        momentum: Of the optimizer.
        weight_decay: Of the weight; of the bias too with ``sgd``.
        batch_norm: Without it features are taken as they are.
        std: Of the weights at the start; the bias starts at 0.
        device: Where to compute.
        seed: Of the start.
    """

    def __init__(
        self,
        width: int,
        classes: int,
        lr: float,
        optimizer: str = "lars",
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        batch_norm: bool = True,
        std: float = 0.01,
        device: torch.device | str = "cpu",
        seed: int = 0,
    ) -> None:
        norm = nn.BatchNorm1d(width, affine=False, eps=1e-6) if batch_norm else nn.Identity()
        linear = nn.Linear(width, classes)
        generator = torch.Generator().manual_seed(seed)
        nn.init.trunc_normal_(linear.weight, std=std, generator=generator)
        nn.init.zeros_(linear.bias)
        self.model = nn.Sequential(norm, linear).to(device)
        self.lr = lr
        kind = {"lars": LARS, "sgd": SGD}[optimizer]
        self.optimizer: Any = kind(linear.parameters(), lr=lr, momentum=momentum, weight_decay=weight_decay)

    def step(self, features: Tensor, labels: Tensor, factor: float) -> Tensor:
        """See `Heads`."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * factor
        self.model.train()
        loss = F.cross_entropy(self.model(features), labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    @torch.no_grad()
    def evaluate(self, val: FeatureTable) -> dict[str, Any]:
        """Top-1 and top-5 accuracy in percent."""
        self.model.eval()
        device = self.model[1].weight.device
        counts = [hits(self.model(x), y) for x, y in scores_in_parts(val, device)]  # type: ignore[arg-type]
        first, five = (100 * sum(c[i] for c in counts) / len(val) for i in (0, 1))
        return {"accuracy/top1": first, "accuracy/top5": five}

    def state(self) -> dict[str, Any]:
        """See `Heads`."""
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        """See `Heads`."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])


@TASK_UTILS.register_module()
class LinearProbe:
    """Trains one linear layer. The defaults are MAE's (its appendix A.1).

    Args:
        parts: Parts of the encoder, side by side.
        epochs: See `Schedule`, as the next six.
        batch_size: Likewise.
        base_lr: Likewise.
        warmup: Likewise.
        by_epoch: Likewise.
        val_interval: Likewise.
        min_steps: Likewise.
        optimizer: ``lars`` or ``sgd``.
        momentum: Of the optimizer.
        weight_decay: Of the optimizer.
        batch_norm: Batch norm without scale and shift before the layer.
        std: Of the weights at the start.

    Raises:
        UserError: An argument is out of range.
    """

    shared = False

    def __init__(
        self,
        parts: Sequence[str] = ("cls-1",),
        epochs: int = 90,
        batch_size: int = 16384,
        base_lr: float = 0.1,
        warmup: float = 10.0,
        by_epoch: bool = False,
        val_interval: int = 1,
        min_steps: int = 0,
        optimizer: str = "lars",
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        batch_norm: bool = True,
        std: float = 0.01,
    ) -> None:
        self.parts = list(parts)
        self.schedule = Schedule(epochs, batch_size, base_lr, warmup, by_epoch, val_interval, min_steps)
        self.options: dict[str, Any] = dict(
            optimizer=optimizer, momentum=momentum, weight_decay=weight_decay, batch_norm=batch_norm, std=std
        )
        if optimizer not in ("lars", "sgd"):
            raise UserError(f"probe.optimizer is {optimizer!r}; set lars or sgd")
        if not 0 <= warmup < epochs or batch_size < 1 or val_interval < 1:
            raise UserError(
                f"probe: {epochs} epochs, {warmup} of warm-up, batch_size {batch_size}, val_interval {val_interval}; "
                f"set fewer epochs of warm-up than epochs, and the others to 1 or more"
            )

    def run(self, task: Task) -> Outcome | None:
        """Train and evaluate.

        Args:
            task: Features.

        Returns:
            ``accuracy/top1`` and ``top5`` of each evaluation.
        """
        images = len(task.train)
        schedule = self.schedule.stretched(images)
        lr, batch = schedule.lr(images), schedule.batch(images)
        head = LinearHead(
            task.train.width, task.train.classes, lr, device=task.device, seed=task.seed, **self.options
        )
        task.log(
            f"linear probe: {images:,} images in batches of {batch}, {schedule.epochs} epochs, learning rate {lr:.4g}"
        )
        history = train_heads(head, schedule, task)
        notes = {"batch_size": batch, "lr": lr, "epochs": schedule.epochs, "views": task.train.views}
        return Outcome(history, {"linear": notes})
