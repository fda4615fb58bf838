"""Classify features by a vote of their nearest neighbours: what a frozen encoder knows, without training."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from cmae_mm.errors import UserError


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
        max_cells: Similarities held at once, 4 + 8 bytes each.

    Returns:
        (Q,) int64.

    Raises:
        UserError: The bank is smaller than k, a label is out of range or a feature is not finite.
    """
    _check(queries, bank, labels, classes, k)
    with torch.autocast(queries.device.type, enabled=False):
        queries, bank = normalize(queries.float(), dim=1), normalize(bank.float(), dim=1)
        rows = max(1, max_cells // len(bank))
        votes = [_vote(part @ bank.t(), labels, classes, k, temperature) for part in queries.split(rows)]
    return torch.cat(votes)


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


def _vote(similarity: Tensor, labels: Tensor, classes: int, k: int, temperature: float) -> Tensor:
    """(R, B) similarities to (R,) classes."""
    nearest, column = _nearest(similarity, k)
    # Relative to the nearest: the same winner, and no overflow however small the temperature is.
    weights = ((nearest - nearest[:, :1]) / temperature).exp()
    scores = weights.new_zeros(len(weights), classes).scatter_add_(1, labels[column], weights)
    return scores.argmax(dim=1)


def _nearest(similarity: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row and their columns, descending; of equal ones those of lower column.

    ``topk`` alone leaves open which of equal values it takes. So the keys are integers: above, the bits of the
    float, which for negative numbers are turned round so that they sort; below, the column counted from the end.
    """
    columns = similarity.shape[1]
    bits = (similarity + 0.0).view(torch.int32)  # + 0.0 turns -0.0 into 0.0
    bits = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).long()
    keys = (bits << 32) + torch.arange(columns - 1, -1, -1, device=similarity.device)
    column = columns - 1 - (keys.topk(k, dim=1).values & 0xFFFFFFFF)
    return similarity.gather(1, column), column


def _check(queries: Tensor, bank: Tensor, labels: Tensor, classes: int, k: int) -> None:
    if not 0 < k <= len(bank):
        raise UserError(
            f"kNN with k={k} needs a bank of at least that many images, not {len(bank)}; change k."
        )
    if int(labels.min()) < 0 or int(labels.max()) >= classes:
        raise UserError(
            f"kNN with {classes} classes got labels {int(labels.min())} to {int(labels.max())}; "
            "they must lie in 0..classes-1."
        )
    if not (queries.isfinite().all() and bank.isfinite().all()):
        raise UserError(
            "kNN got features that are not finite: the encoder is broken; use an earlier checkpoint."
        )
