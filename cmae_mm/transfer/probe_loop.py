"""Train heads on cached features: epochs, schedule, evaluations, and a state to go on from."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from cmae_mm.checkpoints.safe_load import load_checkpoint
from cmae_mm.data.masters import draw_key
from cmae_mm.errors import UserError
from cmae_mm.transfer.feature_table import FeatureTable
from cmae_mm.transfer.probe_task import Task

STATE = "heads.pth"
_EVERY = 20.0  # seconds between two saved states


@dataclass(frozen=True)
class Schedule:
    """How long, in which batches, at which rate.

    Args:
        epochs: Passes over the training images; epoch ``e`` sees view ``e % views``.
        batch_size: Images in a step; all of them where there are fewer. What is left over in an epoch is dropped.
        base_lr: Learning rate for 256 images.
        warmup: Epochs of linear warm-up from 0; then a half cosine to 0.
        by_epoch: Change the rate once an epoch, not once a step.
        val_interval: Epochs between two evaluations; the last epoch is evaluated in any case.
        min_steps: With few images, epochs (all of them, those of the warm-up too) are multiplied until there are so
            many steps. 0 changes nothing.
    """

    epochs: int
    batch_size: int
    base_lr: float = 1.0
    warmup: float = 0.0
    by_epoch: bool = False
    val_interval: int = 1
    min_steps: int = 0

    def stretched(self, images: int) -> Schedule:
        """The schedule for so many training images, with at least ``min_steps`` steps."""
        steps = self.epochs * (images // self.batch(images))
        times = max(1, math.ceil(self.min_steps / steps))
        return replace(
            self,
            epochs=self.epochs * times,
            warmup=self.warmup * times,
            val_interval=self.val_interval * times,
            min_steps=0,
        )

    def batch(self, images: int) -> int:
        """Images in a step, with so many in all."""
        return min(self.batch_size, images)

    def lr(self, images: int, scale: float | None = None) -> float:
        """The peak rate: ``scale * batch / 256``.

        Args:
            images: Training images.
            scale: In place of ``base_lr``.
        """
        return (self.base_lr if scale is None else scale) * self.batch(images) / 256

    def factor(self, epoch: float) -> float:
        """The rate as a share of its peak (MAE evaluates it for each step, at a fractional epoch).

        Args:
            epoch: From 0 to ``epochs``.
        """
        epoch = math.floor(epoch) if self.by_epoch else epoch
        if epoch < self.warmup:
            return epoch / self.warmup
        return 0.5 * (1 + math.cos(math.pi * (epoch - self.warmup) / (self.epochs - self.warmup)))


class Heads(Protocol):
    """One or many classifiers that are trained together."""

    def step(self, features: Tensor, labels: Tensor, factor: float) -> Tensor:
        """Make one step at a share of the peak rate; returns the loss."""

    def evaluate(self, val: FeatureTable) -> dict[str, Any]:
        """Metrics on validation features."""

    def state(self) -> dict[str, Any]:
        """Tensors and plain values to go on from."""

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""


def train_heads(
    heads: Heads, schedule: Schedule, task: Task, train: FeatureTable | None = None
) -> list[dict[str, Any]]:
    """Train heads, and evaluate them on the way.

    The order of the images in an epoch depends on the seed and the epoch, so a run that goes on ends as one that was
    never stopped.

    Args:
        heads: On the device of the task.
        schedule: Length and rates.
        task: Features, seed, work dir.
        train: In place of all training features.

    Returns:
        The metrics of each evaluation, with ``epoch`` and ``iter``.

    Raises:
        UserError: The loss is not finite, or the state of a stopped run cannot be read.
    """
    table = train or task.train
    file = task.work_dir / STATE
    start, history = _restore(file, heads)
    size = schedule.batch(len(table))
    steps = len(table) // size
    reader, view, saved = None, -1, time.monotonic()
    for epoch in range(start, schedule.epochs):
        if epoch % table.views != view:
            view = epoch % table.views
            reader = None  # gives its memory back first
            reader = table.reader(view, task.device)
        assert reader is not None
        loss = _epoch(heads, schedule, table, reader, epoch, steps, task)
        last = epoch + 1 == schedule.epochs
        if last or (epoch + 1) % schedule.val_interval == 0:
            found = heads.evaluate(task.val)
            history.append({"epoch": epoch + 1, "iter": (epoch + 1) * steps, **found})
            task.log(
                f"epoch {epoch + 1} of {schedule.epochs}: loss {loss:.4f}, top-1 {found['accuracy/top1']:.2f} %"
            )
        if last or time.monotonic() - saved > _EVERY:
            saved = time.monotonic()
            _save(file, {"epoch": epoch + 1, "history": history, "heads": heads.state()})
    return history


def _epoch(
    heads: Heads,
    schedule: Schedule,
    table: FeatureTable,
    reader: Callable[[Tensor], Tensor],
    epoch: int,
    steps: int,
    task: Task,
) -> float:
    """One pass; returns the loss of its last step."""
    generator = torch.Generator().manual_seed(draw_key(task.seed, epoch, 0))
    order = torch.randperm(len(table), generator=generator)
    size = schedule.batch(len(table))
    loss = torch.zeros(())
    for step in range(steps):
        places = order[step * size : (step + 1) * size]
        labels = table.labels[places].to(task.device)
        loss = heads.step(reader(places), labels, schedule.factor(epoch + step / steps))
    value = float(loss)
    if not math.isfinite(value):
        raise UserError(
            f"probe: the loss is {value} in epoch {epoch + 1}; lower probe.base_lr (probe.rates of a sweep)"
        )
    return value


def _save(file: Path, state: dict[str, Any]) -> None:
    part = file.with_name(f"{file.name}.part")
    torch.save(state, part)
    os.replace(part, file)


def _restore(file: Path, heads: Heads) -> tuple[int, list[dict[str, Any]]]:
    """Epochs that are done and their evaluations."""
    if not file.is_file():
        return 0, []
    state = load_checkpoint(file)
    try:
        heads.restore(state["heads"])
        return int(state["epoch"]), list(state["history"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{file}: is no state of this probe ({error}); remove it and run again") from None


def scores_in_parts(table: FeatureTable, device: torch.device, rows: int = 8192) -> Any:
    """Read validation features in pieces.

    Args:
        table: Features.
        device: Where they are wanted.
        rows: Of a piece.

    Yields:
        Features (n, width) float32 and labels (n,).
    """
    for start, tile in zip(range(0, len(table), rows), table.tiles(rows), strict=True):
        yield tile.to(device), table.labels[start : start + rows].to(device)
