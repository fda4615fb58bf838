"""Classify features by a vote of their nearest neighbours: what a frozen encoder knows, without training."""

from __future__ import annotations

import torch
from torch import Tensor

from cmae_mm.engine.nearest import find_nearest
from cmae_mm.errors import UserError

_TILE = 16384  # entries of the bank at once


@torch.no_grad()
def knn_predict(
    queries: Tensor,
    bank: Tensor,
    labels: Tensor,
    classes: int,
    k: int = 20,
    temperature: float = 0.07,
    max_cells: int = 2**24,
) -> Tensor:
    """Predict a class for each query.

    With unit features, the neighbours of a query q are the k entries of the bank with the largest
    ``s_i = q . b_i``. Class c scores ``sum of exp(s_i / temperature)`` over the neighbours i with label c; the
    class with the highest score wins (instance discrimination, arXiv 1805.01978, section 3.4; DINO uses the same vote
    with k = 20). Of equally near entries the first ones of the bank count, of equal scores the lowest class wins.

    Args:
        queries: (Q, C) features of any length; computed in float32.
        bank: (B, C) features with known classes, on the same device.
        labels: (B,) int64 in 0..classes-1.
        classes: Number of classes.
        k: Neighbours that vote.
        temperature: The smaller, the more the nearest ones weigh.
        max_cells: Similarities held at once, see `find_nearest`.

    Returns:
        (Q,) int64.

    Raises:
        UserError: The bank is smaller than k, a label is out of range or a feature is not finite.
    """
    _check(bank, labels, classes, k)
    similarity, place = find_nearest(queries, bank.split(_TILE), k, max_cells)
    near = labels[place]
    rows = max(1, max_cells // classes)
    parts = zip(similarity.split(rows), near.split(rows), strict=True)
    return torch.cat([vote(s, n, classes, temperature).argmax(dim=1) for s, n in parts])


def knn_accuracy(
    queries: Tensor,
    query_labels: Tensor,
    bank: Tensor,
    labels: Tensor,
    classes: int,
    k: int = 20,
    temperature: float = 0.07,
) -> float:
    """Measure how often `knn_predict` is right.

    Args:
        queries: (Q, C) features.
        query_labels: (Q,) int64.
        bank: (B, C) features.
        labels: (B,) int64.
        classes: Number of classes.
        k: Neighbours that vote.
        temperature: Of the vote.

    Returns:
        Top-1 accuracy in percent.

    Raises:
        UserError: As in `knn_predict`.
    """
    predicted = knn_predict(queries, bank, labels, classes, k, temperature)
    return 100 * (predicted == query_labels).double().mean().item()


def vote(similarity: Tensor, labels: Tensor, classes: int, temperature: float) -> Tensor:
    """Let neighbours vote.

    Args:
        similarity: (Q, k) cosines, descending.
        labels: (Q, k) int64, theirs.
        classes: Number of classes.
        temperature: The smaller, the more the nearest ones weigh.

    Returns:
        (Q, classes) float32 scores, relative to the weight of the nearest neighbour: the ranks are those of
        ``exp(s / temperature)``, and nothing overflows however small the temperature is.
    """
    weights = ((similarity - similarity[:, :1]) / temperature).exp()
    return weights.new_zeros(len(weights), classes).scatter_add_(1, labels, weights)


def _check(bank: Tensor, labels: Tensor, classes: int, k: int) -> None:
    if not 0 < k <= len(bank):
        raise UserError(
            f"kNN with k={k} needs a bank of at least that many images, not {len(bank)}; change k."
        )
    if int(labels.min()) < 0 or int(labels.max()) >= classes:
        raise UserError(
            f"kNN with {classes} classes got labels {int(labels.min())} to {int(labels.max())}; "
            "they must lie in 0..classes-1."
        )
