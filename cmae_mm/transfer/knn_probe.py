"""Weighted nearest neighbours on cached features: DINO's protocol, many numbers of neighbours in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.dist import all_reduce, get_dist_info
from mmpretrain.registry import TASK_UTILS
from torch import Tensor

from cmae_mm.engine.knn import vote
from cmae_mm.engine.nearest import find_nearest
from cmae_mm.errors import UserError
from cmae_mm.transfer.feature_table import FeatureTable
from cmae_mm.transfer.probe_task import Outcome, Task

_TILE = 16384  # rows of the bank at once


@TASK_UTILS.register_module()
class KNNProbe:
    """Labels each validation image by a vote of its nearest training images (cosine, weights ``exp(s / T)``).

    Each process classifies a share of the validation images; the bank streams past, read once by each.

    Args:
        parts: Parts of the encoder.
        neighbours: Numbers of neighbours; those above the size of the bank are cut to it.
        temperatures: Of the vote; all are combined with all numbers.
        main: Neighbours of the main metric, with the first temperature.
        standardize: ``train``: first subtract the mean of the training features and divide by their standard deviation,
            channel by channel (MIM-Refiner does so; DINO and DINOv2 do not); ``none``: do not.

    Raises:
        UserError: An argument is out of range.
    """

    shared = True

    def __init__(
        self,
        parts: Sequence[str] = ("cls-1",),
        neighbours: Sequence[int] = (10, 20, 100, 200),
        temperatures: Sequence[float] = (0.07,),
        main: int = 20,
        standardize: str = "none",
    ) -> None:
        self.parts = list(parts)
        self.neighbours, self.temperatures, self.main = sorted(neighbours), list(temperatures), main
        self.standardize = standardize
        if standardize not in ("none", "train"):
            raise UserError(f"probe.standardize is {standardize!r}; set none or train")
        if main not in self.neighbours or self.neighbours[0] < 1:
            raise UserError(
                f"probe.neighbours is {self.neighbours}; set numbers from 1, among them main={main}"
            )
        if not self.temperatures or min(self.temperatures) <= 0:
            raise UserError(f"probe.temperatures is {self.temperatures}; set numbers above 0")

    def run(self, task: Task) -> Outcome | None:
        """Classify the validation images.

        Args:
            task: Features.

        Returns:
            One evaluation: ``accuracy/top1`` and ``top5`` of the main setting, ``accuracy/best_k`` of the best,
            and each setting by name.
        """
        rank, world = get_dist_info()
        settings = self._settings(len(task.train))
        move = _standardization(task.train) if self.standardize == "train" else None
        mine = torch.arange(rank, len(task.val), world)
        queries = _moved(task.val.take(mine).float(), move).to(task.device)
        tiles = (_moved(tile, move) for tile in task.train.tiles(_TILE))
        similarity, place = find_nearest(queries, tiles, max(k for k, _ in settings))
        near = task.train.labels.to(task.device)[place]
        counts = self._count(
            similarity, near, task.val.labels[mine].to(task.device), task.train.classes, settings
        )
        all_reduce(counts)
        metrics = self._metrics((100 * counts / len(task.val)).tolist(), settings)
        task.log("; ".join(f"{name} {value:.2f}" for name, value in metrics.items()))
        notes = {"bank": len(task.train), "main_neighbours": min(self.main, len(task.train))}
        return Outcome([metrics], {"knn": notes | {"standardize": self.standardize}})

    def _settings(self, bank: int) -> list[tuple[int, float]]:
        numbers = sorted({min(k, bank) for k in self.neighbours})
        return [(k, t) for k in numbers for t in self.temperatures]

    def _count(
        self,
        similarity: Tensor,
        near: Tensor,
        labels: Tensor,
        classes: int,
        settings: list[tuple[int, float]],
    ) -> Tensor:
        """(settings, 2) correct votes: at the first guess, and within five."""
        counts = torch.zeros(len(settings), 2, dtype=torch.float64, device=labels.device)
        rows = max(1, 2**24 // classes)
        for start in range(0, len(labels), rows):
            part = slice(start, start + rows)
            for row, (k, temperature) in enumerate(settings):
                scores = vote(similarity[part, :k], near[part, :k], classes, temperature)
                top = scores.topk(min(5, classes), dim=1)
                # With fewer classes among the neighbours than guesses, the rest of the guesses are void.
                five = ((top.indices == labels[part, None]) & (top.values > 0)).any(dim=1)
                counts[row, 0] += (scores.argmax(dim=1) == labels[part]).sum()
                counts[row, 1] += five.sum()
        return counts

    def _metrics(self, shares: list[list[float]], settings: list[tuple[int, float]]) -> dict[str, Any]:
        found = dict(zip(settings, shares, strict=True))
        largest = max(k for k, _ in settings)
        main = found[(min(self.main, largest), self.temperatures[0])]
        metrics = {"accuracy/top1": main[0], "accuracy/top5": main[1]}
        metrics["accuracy/best_k"] = max(first for first, _ in shares)
        for (k, t), (first, _) in found.items():
            metrics[f"accuracy/k{k}" + (f"_t{t:g}" if len(self.temperatures) > 1 else "")] = first
        return metrics


def _standardization(table: FeatureTable) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel, (C,) float64, in two passes."""
    mean, square = (torch.zeros(table.width, dtype=torch.float64) for _ in range(2))
    for tile in table.tiles(_TILE):
        mean += tile.double().sum(dim=0) / len(table)
    for tile in table.tiles(_TILE):
        square += (tile.double() - mean).square().sum(dim=0) / len(table)
    deviation = square.sqrt()
    return mean, torch.where(deviation > 0, deviation, 1.0)


def _moved(features: Tensor, move: tuple[Tensor, Tensor] | None) -> Tensor:
    return features if move is None else ((features - move[0]) / move[1]).float()
