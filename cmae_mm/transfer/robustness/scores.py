"""What is counted while a model sees a set: correct answers among classes that compete, and ReaL's rule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor


class Score(Protocol):
    """Counts over batches."""

    def update(self, rows: Tensor, logits: Tensor) -> None:
        """Count a batch: ``rows`` (B,) of the set, ``logits`` (B, K)."""

    def result(self) -> dict[str, float]:
        """Names to %, and numbers of images."""


class _Counts:
    """Images, and right answers among the first and the first five."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.images = self.top1 = self.top5 = 0

    def result(self) -> dict[str, float]:
        """See `Score`."""
        share = 100 / max(self.images, 1)
        names = {"top1": self.top1 * share, "top5": self.top5 * share, "images": float(self.images)}
        return {f"{self.name}/{key}": value for key, value in names.items()}


class Accuracy(_Counts):
    """Share of images whose class has the largest logit, or one of the five largest, among those that compete.

    Args:
        name: Start of the names in the record.
        labels: Class of each row of the set.
        columns: Classes that compete; None for all. Images of other classes are left out.
    """

    def __init__(self, name: str, labels: Sequence[int], columns: Sequence[int] | None = None) -> None:
        super().__init__(name)
        self.labels = torch.tensor(labels)
        self.columns = None if columns is None else torch.tensor(columns)

    def update(self, rows: Tensor, logits: Tensor) -> None:
        """See `Score`."""
        labels = self.labels[rows].to(logits.device)
        if self.columns is not None:
            columns = self.columns.to(logits.device)
            own = labels[:, None] == columns
            kept = own.any(1)
            labels, logits = own.int().argmax(1)[kept], logits[kept][:, columns]
        best = logits.topk(min(5, logits.shape[1]), dim=1).indices
        self.images += len(labels)
        self.top1 += int((logits.argmax(1) == labels).sum())
        self.top5 += int((best == labels[:, None]).any(1).sum())


class RealAccuracy(_Counts):
    """ImageNet-ReaL: an answer is right if it is one of the image's labels; images without labels do not count.

    Args:
        name: Start of the names in the record.
        labels: Of each row of the set.
        classes: Of the model.
    """

    def __init__(self, name: str, labels: Sequence[frozenset[int]], classes: int) -> None:
        super().__init__(name)
        self.allowed = torch.zeros(len(labels), classes, dtype=torch.bool)
        for row, some in enumerate(labels):
            self.allowed[row, list(some)] = True

    def update(self, rows: Tensor, logits: Tensor) -> None:
        """See `Score`."""
        allowed = self.allowed[rows].to(logits.device)
        best = logits.topk(min(5, logits.shape[1]), dim=1).indices
        self.images += int(allowed.any(1).sum())
        self.top1 += int(allowed.gather(1, logits.argmax(1, keepdim=True)).sum())
        self.top5 += int(allowed.gather(1, best).any(1).sum())
