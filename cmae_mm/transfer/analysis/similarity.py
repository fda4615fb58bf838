"""Linear CKA between layers, unbiased and in mini-batches (Nguyen et al., arXiv 2010.15327, equation 3)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

FEWEST = 4
"""Images of a batch: the estimator divides by n (n - 3)."""


def gram(features: Tensor) -> Tensor:
    """Inner products of the rows, without those of a row with itself.

    Features are centred first. It changes no result, and keeps digits where features have a large common part.

    Args:
        features: (n, d).

    Returns:
        (n, n) float64 with a zero diagonal.
    """
    x = features.double()
    x = x - x.mean(0)
    products = x @ x.T
    return products - torch.diag(products.diagonal())


def hsic(first: Tensor, second: Tensor) -> Tensor:
    """Unbiased estimate of HSIC (Song et al. 2012) of two Gram matrices with zero diagonals.

    Args:
        first: (n, n), see `gram`.
        second: (n, n).

    Returns:
        A scalar; it may be slightly negative.
    """
    n = len(first)
    sums = first.sum() * second.sum() / ((n - 1) * (n - 2)) - 2 * first.sum(0) @ second.sum(0) / (n - 2)
    return ((first * second).sum() + sums) / (n * (n - 3))


class BatchedCKA:
    """CKA of every layer of one model with every layer of another, summed over batches.

    HSIC is averaged over batches before anything is divided. A batch must hold the same images in the same order for
    both models; batches smaller than the first are left out.
    """

    def __init__(self) -> None:
        self._sums: list[Tensor] = []
        self._size = 0
        self.batches = 0

    def update(self, first: Sequence[Tensor], second: Sequence[Tensor]) -> None:
        """Add a batch.

        Args:
            first: Features (n, d) of each layer.
            second: Those of the other model, or the same again.
        """
        self._size = self._size or len(first[0])
        if len(first[0]) < max(self._size, FEWEST):
            return
        a = [gram(x) for x in first]
        b = a if first is second else [gram(x) for x in second]
        cross = torch.stack([torch.stack([hsic(x, y) for y in b]) for x in a])
        own = [torch.stack([hsic(x, x) for x in side]) for side in (a, b)]
        parts = [cross, *own]
        self._sums = [s + p for s, p in zip(self._sums, parts, strict=True)] if self._sums else parts
        self.batches += 1

    def result(self) -> Tensor:
        """CKA (layers of the first, layers of the second); empty without a batch."""
        if not self._sums:
            return torch.empty(0, 0)
        cross, first, second = self._sums
        return cross / (first[:, None] * second).sqrt()
