"""Contrastive losses on features of two views, and what a log should say of them. Pure functions.

Shapes: N features of one process, M of all processes, D values each. Everything is computed in float32 whatever
autocast says: similarities over 0.07 reach 14, where bfloat16 has steps of 0.06.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from mmengine.dist import get_comm_device, get_rank, get_world_size
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from cmae_mm.engine.collectives import concatenation_of_processes

MAX_CELLS = 2**24
"""Similarities held at once: 64 MB. More are computed in blocks of rows, again in the backward pass."""


class Contrast(NamedTuple):
    """A contrastive loss and its health.

    Attributes:
        loss: Scalar with gradient.
        accuracy: Share of queries whose own key is the most similar one, 0 to 1.
        positive: Mean cosine of a query and its own key.
        negative: Mean cosine of a query and another image's key.
    """

    loss: Tensor
    accuracy: Tensor
    positive: Tensor
    negative: Tensor


def unit(features: Tensor) -> Tensor:
    """Scale (N, D) features to length 1, in float32."""
    with torch.autocast(features.device.type, enabled=False):
        return F.normalize(features.float(), dim=-1)


def count_samples(count: int) -> list[int]:
    """Tell how many samples each process holds, in the order of their ranks.

    Args:
        count: Of this process.
    """
    if get_world_size() == 1:
        return [count]
    own = torch.tensor([count], device=get_comm_device())
    counts = [torch.empty_like(own) for _ in range(get_world_size())]
    dist.all_gather(counts, own)
    return torch.cat(counts).tolist()


def gather(features: Tensor, with_gradient: bool = False, counts: Sequence[int] | None = None) -> Tensor:
    """Concatenate the features of all processes, in the order of their ranks.

    Args:
        features: (N, D).
        with_gradient: Let the gradient flow back to the process that a feature came from; the gradients of
            all processes' losses are summed there.
        counts: N of each process, see `count_samples`; None where all hold equally many.

    Returns:
        (M, D).
    """
    if get_world_size() == 1:
        return features
    rows = len(features) if counts is None else max(counts)
    padded = F.pad(features, (0, 0, 0, rows - len(features)))  # collectives need equal shapes
    every = concatenation_of_processes(padded if with_gradient else padded.detach())
    if counts is None:
        return every
    return torch.cat([part[:n] for part, n in zip(every.split(rows), counts, strict=True)])


def info_nce(query: Tensor, keys: Tensor, temperature: float, offset: int = 0) -> Contrast:
    """Match each query with its own key among all keys, by cross-entropy (CMAE, section 3.4).

    Args:
        query: (N, D), any length; normalised here.
        keys: (M, D), M >= N; normalised here.
        temperature: Divides the cosine similarities.
        offset: Query i belongs to key ``offset + i``.

    Returns:
        Loss, the mean over queries, and statistics.
    """
    with torch.autocast(query.device.type, enabled=False):
        labels = torch.arange(offset, offset + len(query), device=query.device)
        return _in_blocks(unit(query), unit(keys), labels, None, temperature)


def nt_xent(
    first: Tensor, second: Tensor, temperature: float, counts: Sequence[int] | None = None
) -> Contrast:
    """Symmetric in-batch contrast of two views, over all processes (SimCLR, equation 1).

    The 2 M features of all processes are candidates for each of the 2 N own ones; a feature is not compared
    with itself. Gradients reach the features of all processes.

    Args:
        first: (N, D) projections of the first views, any length.
        second: (N, D) of the second views, in the same order.
        temperature: Divides the cosine similarities.
        counts: N of each process; None where all hold equally many.

    Returns:
        Loss, the mean over the 2 N features, and statistics.
    """
    before = len(first) * get_rank() if counts is None else sum(counts[: get_rank()])
    with torch.autocast(first.device.type, enabled=False):
        own = torch.cat([unit(first), unit(second)])
        every = torch.cat([gather(half, with_gradient=True, counts=counts) for half in own.chunk(2)])
        m = len(every) // 2
        places = torch.arange(len(first), device=own.device) + before
        itself, partner = torch.cat([places, places + m]), torch.cat([places + m, places])
        return _in_blocks(own, every, partner, itself, temperature)


def byol_loss(query: Tensor, key: Tensor) -> Contrast:
    """Squared distance of unit vectors, ``2 - 2 cos`` (BYOL, equation 2): no negatives.

    Args:
        query: (N, D), any length.
        key: (N, D), in the same order.
    """
    query, key = unit(query), unit(key)
    loss = 2 - 2 * (query * key).sum(dim=-1).mean()
    with torch.no_grad():
        logits = query @ key.t()
        labels = torch.arange(len(query), device=query.device)
        return _classified(logits, labels, 1.0, ignored=0)._replace(loss=loss)


def spread(features: Tensor) -> Tensor:
    """Mean over dimensions of the standard deviation of unit features over the batch, without gradient.

    About ``1 / sqrt(D)`` where features fill their sphere, 0 where they have collapsed to a point
    (SimSiam, section 4.1).
    """
    return unit(features.detach()).std(dim=0, unbiased=False).mean()


def _in_blocks(
    own: Tensor, every: Tensor, labels: Tensor, itself: Tensor | None, temperature: float
) -> Contrast:
    """Classify unit features (N, D) among (M, D) without holding more than `MAX_CELLS` similarities.

    ``labels`` are the columns of the partners, ``itself`` columns that do not take part.
    """

    def block(rows: Tensor, labels: Tensor, itself: Tensor | None) -> Contrast:
        logits = rows @ every.t() / temperature
        if itself is not None:
            logits = logits.scatter(1, itself.unsqueeze(1), float("-inf"))
        return _classified(logits, labels, temperature, ignored=int(itself is not None))

    if own.shape[0] * every.shape[0] <= MAX_CELLS:
        return block(own, labels, itself)
    size = max(1, MAX_CELLS // len(every))
    others = [None] * len(own.split(size)) if itself is None else itself.split(size)
    parts = [
        (len(rows), checkpoint(block, rows, column, other, use_reentrant=False))
        for rows, column, other in zip(own.split(size), labels.split(size), others, strict=True)
    ]
    return Contrast(*(sum(n * part[k] for n, part in parts) / len(own) for k in range(len(Contrast._fields))))


def _classified(logits: Tensor, labels: Tensor, temperature: float, ignored: int) -> Contrast:
    """Cross-entropy and statistics; ``ignored`` entries of each row are minus infinity."""
    loss = F.cross_entropy(logits, labels)
    with torch.no_grad():
        own = logits.gather(1, labels.unsqueeze(1))
        accuracy = (logits.argmax(dim=1) == labels).float().mean()
        # Without a second image there is no negative: 0 / 0 would spoil the log.
        others = max(logits.shape[1] - 1 - ignored, 1)
        total = logits.masked_fill(logits == float("-inf"), 0).sum(dim=1, keepdim=True)
        negative = ((total - own) / others).mean() * temperature
        return Contrast(loss, accuracy, own.mean() * temperature, negative)
