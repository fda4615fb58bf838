"""Many linear layers on cached features at once: learning rates x blocks x pooling, as DINOv2 does it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from mmpretrain.registry import TASK_UTILS
from torch import Tensor, nn

from cmae_mm.errors import UserError
from cmae_mm.transfer.feature_table import FeatureTable
from cmae_mm.transfer.logistic_probe import held_out
from cmae_mm.transfer.probe_loop import Schedule, scores_in_parts, train_heads
from cmae_mm.transfer.probe_task import Outcome, Task

DINOV2_RATES = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1)
"""Of DINOv2's code (dinov2/eval/linear.py), for 256 images; its paper lists others."""


class Group(NamedTuple):
    """Layers that see the same columns of the features."""

    name: str
    columns: slice


def groups_of(blocks: Sequence[int], pooling: Sequence[bool], width: int) -> tuple[list[str], list[Group]]:
    """Plan what is extracted and which columns each group of layers sees.

    Args:
        blocks: Numbers of last blocks whose class tokens are put side by side.
        pooling: Without and with the mean patch token of the last block behind them.
        width: Channels of a part.

    Returns:
        The parts, deepest last, and the groups.
    """
    most = max(blocks)
    parts = [f"cls-{n}" for n in range(most, 0, -1)] + ["avg-1"] * any(pooling)
    groups = [
        Group(f"blocks{n}" + "_avg" * avg, slice((most - n) * width, (most + avg) * width))
        for n in blocks
        for avg in pooling
    ]
    return parts, groups


class SweepHeads:
    """Linear layers trained together by SGD; no layer knows of another.

    The layers of a group are one matrix product, and one update with a rate for each.

    Args:
        groups: See :func:`groups_of`.
        rates: Learning rates for 256 images; each group has a layer for each.
        width: Columns of the features.
        classes: Number of classes.
        scale: Peak rate for each unit of ``rates``: the batch / 256.
        momentum: Of SGD.
        batch_norm: Batch norm without scale and shift of all columns first.
        device: Where to compute.
        seed: Of the start: normal with standard deviation 0.01, bias 0.
        held: Held-out features, by which a layer is chosen; None where there are too few.
    """

    def __init__(
        self,
        groups: Sequence[Group],
        rates: Sequence[float],
        width: int,
        classes: int,
        scale: float = 1.0,
        momentum: float = 0.9,
        batch_norm: bool = False,
        device: torch.device | str = "cpu",
        seed: int = 0,
        held: FeatureTable | None = None,
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.groups, self.momentum, self.held, self.classes = list(groups), momentum, held, classes
        self.names = [f"{group.name}_lr{rate:g}" for group in groups for rate in rates]
        self.rates = scale * torch.tensor(list(rates), device=device)
        self.norm = (nn.BatchNorm1d(width, affine=False, eps=1e-6) if batch_norm else nn.Identity()).to(
            device
        )
        sizes = [g.columns.stop - g.columns.start for g in groups]
        shapes = [(size, len(rates), classes) for size in sizes]
        self.weights = [0.01 * torch.randn(s, generator=generator) for s in shapes]
        self.weights = [w.to(device).requires_grad_() for w in self.weights]
        self.biases = [torch.zeros(len(rates), classes, device=device, requires_grad=True) for _ in groups]
        self.moments = [torch.zeros_like(p) for p in (*self.weights, *self.biases)]

    def scores(self, features: Tensor) -> Tensor:
        """Classify by every layer.

        Args:
            features: (N, width).

        Returns:
            (N, layers, classes), in the order of ``names``.
        """
        features = self.norm(features)
        found = [
            (features[:, g.columns] @ w.flatten(1)).unflatten(1, b.shape) + b
            for g, w, b in zip(self.groups, self.weights, self.biases, strict=True)
        ]
        return torch.cat(found, dim=1)

    def step(self, features: Tensor, labels: Tensor, factor: float) -> Tensor:
        """See `Heads`; the loss is the mean over layers."""
        self.norm.train()
        scores = self.scores(features)
        each = F.cross_entropy(
            scores.transpose(1, 2), labels[:, None].expand(-1, scores.shape[1]), reduction="none"
        )
        losses = each.mean(dim=0)
        parameters = [*self.weights, *self.biases]
        gradients = torch.autograd.grad(losses.sum(), parameters)
        with torch.no_grad():
            for parameter, gradient, moment in zip(parameters, gradients, self.moments, strict=True):
                moment.mul_(self.momentum).add_(gradient)
                parameter.sub_(moment * (factor * self.rates)[:, None])
        return losses.detach().mean()

    @torch.no_grad()
    def accuracy(self, table: FeatureTable) -> Tensor:
        """Accuracy of each layer in percent.

        Args:
            table: Features.

        Returns:
            (layers, 2) float64 on the CPU: first guess, and within five.
        """
        self.norm.eval()
        counts = torch.zeros(len(self.names), 2, dtype=torch.float64)
        for features, labels in scores_in_parts(table, self.rates.device, rows=1024):
            scores = self.scores(features)
            counts[:, 0] += (scores.argmax(dim=2) == labels[:, None]).sum(dim=0).cpu()
            guesses = scores.topk(min(5, self.classes), dim=2).indices
            counts[:, 1] += (guesses == labels[:, None, None]).any(dim=2).sum(dim=0).cpu()
        return 100 * counts / len(table)

    def evaluate(self, val: FeatureTable) -> dict[str, Any]:
        """Accuracy of the layer that is best on held-out images, and of the one that is best on these.

        The second is what DINO, iBOT and DINOv2 report; it is chosen on what it is measured on. Of equally good ones
        the first counts. Where no images are held out, the first layer of the middle rate is taken.
        """
        found = self.accuracy(val)
        held = self.accuracy(self.held)[:, 0] if self.held is not None and len(self.held) else None
        chosen = len(self.rates) // 2 if held is None else int(held.argmax())
        best = int(found[:, 0].argmax())
        return {
            "accuracy/top1": float(found[chosen, 0]),
            "accuracy/top5": float(found[chosen, 1]),
            "accuracy/top1_best_on_val": float(found[best, 0]),
            "accuracy/top5_best_on_val": float(found[best, 1]),
            "layer": self.names[chosen],
            "layer_best_on_val": self.names[best],
        }

    def state(self) -> dict[str, Any]:
        """See `Heads`."""
        parameters = [p.detach() for p in (*self.weights, *self.biases)]
        return {"parameters": parameters, "moments": self.moments, "norm": self.norm.state_dict()}

    @torch.no_grad()
    def restore(self, state: dict[str, Any]) -> None:
        """See `Heads`."""
        self.norm.load_state_dict(state["norm"])
        for own, value in zip((*self.weights, *self.biases), state["parameters"], strict=True):
            own.copy_(value)
        for own, value in zip(self.moments, state["moments"], strict=True):
            own.copy_(value)


@TASK_UTILS.register_module()
class SweepProbe:
    """Trains linear layers for all rates, numbers of blocks and kinds of pooling in one pass (DINOv2's grid).

    Args:
        rates: Learning rates for 256 images.
        blocks: Numbers of last blocks whose class tokens are put side by side.
        pooling: Whether the mean patch token of the last block is put behind them; both are tried.
        epochs: See `Schedule`, as the next three.
        batch_size: Likewise.
        val_interval: Likewise; the default evaluates at the end alone.
        min_steps: Likewise.
        batch_norm: Batch norm without scale and shift first, as masked image models need (MAE, A.1).
        share: Of the training images, held out for the choice of the layer.

    Raises:
        UserError: An argument is out of range.
    """

    shared = False

    def __init__(
        self,
        rates: Sequence[float] = DINOV2_RATES,
        blocks: Sequence[int] = (1, 4),
        pooling: Sequence[bool] = (False, True),
        epochs: int = 10,
        batch_size: int = 1024,
        val_interval: int | None = None,
        min_steps: int = 0,
        batch_norm: bool = False,
        share: float = 0.01,
    ) -> None:
        if not (rates and min(rates) > 0 and blocks and min(blocks) >= 1 and pooling and 0 < share < 1):
            raise UserError(
                "probe: set rates above 0, blocks of 1 or more, pooling to some of False and True, share to a fraction"
            )
        self.rates, self.blocks, self.pooling = list(rates), list(blocks), [bool(p) for p in pooling]
        self.batch_norm, self.share = batch_norm, share
        self.schedule = Schedule(epochs, batch_size, val_interval=val_interval or epochs, min_steps=min_steps)
        self.parts = groups_of(self.blocks, self.pooling, 1)[0]

    def run(self, task: Task) -> Outcome | None:
        """Train all layers and choose one.

        Args:
            task: Features.

        Returns:
            The evaluations; the notes have the accuracy of every layer at the end.
        """
        held = held_out(task.train.labels.numpy(), self.share, task.seed)
        train, held_table = (task.train.subset(part.nonzero()[0]) for part in (~held, held))
        groups = groups_of(self.blocks, self.pooling, task.train.widths[0])[1]
        heads = SweepHeads(
            groups, self.rates, task.train.width, task.train.classes, scale=self.schedule.lr(len(train), 1.0),
            batch_norm=self.batch_norm, device=task.device, seed=task.seed, held=held_table,
        )  # fmt: skip
        task.log(f"sweep: {len(heads.names)} layers on {len(train):,} images, {len(held_table):,} held out")
        history = train_heads(heads, self.schedule.stretched(len(train)), task, train)
        return Outcome(history, {"sweep": self._table(heads, held_table, task)})

    def _table(self, heads: SweepHeads, held: FeatureTable, task: Task) -> dict[str, Any]:
        val = heads.accuracy(task.val)[:, 0].tolist()
        own = heads.accuracy(held)[:, 0].tolist() if len(held) else [None] * len(val)
        layers = {n: {"held_out": h, "val": v} for n, h, v in zip(heads.names, own, val, strict=True)}
        return {
            "layers": layers,
            "held_out_images": len(held),
            "chosen": "held_out" if len(held) else "middle rate",
        }
