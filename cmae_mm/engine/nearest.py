"""Exact nearest neighbours in a bank that is larger than the memory: it passes by once, in tiles."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn.functional import normalize

from cmae_mm.engine.cpu import times_transposed
from cmae_mm.errors import UserError

_LOWEST = torch.iinfo(torch.int64).min
_LOW = 0xFFFFFFFF
_FIRST = 1024


def find_nearest(
    queries: Tensor, tiles: Iterable[Tensor], k: int, max_cells: int = 2**24
) -> tuple[Tensor, Tensor]:
    """Find the k entries of a bank with the largest cosine to each query.

    Of equally near entries the first ones of the bank are taken. Memory: the queries and one tile in float32,
    ``max_cells`` similarities, and 8 bytes for each query and neighbour; the bank itself is never held.

    Args:
        queries: (Q, C) features of any length; computed in float32.
        tiles: The bank in order, in pieces (b, C) of any type on any device.
        k: Neighbours.
        max_cells: Similarities held at once, about 5 bytes each (21 where a tile is the first).

    Returns:
        (Q, k) float32 cosines, descending, and (Q, k) int64 places in the bank.

    Raises:
        UserError: The bank is smaller than k, or a feature is not finite.
    """
    with torch.autocast(queries.device.type, enabled=False):
        queries = _unit(queries)
        keys = queries.new_empty(len(queries), 0, dtype=torch.int64)
        seen = 0
        for tile in tiles:
            tile = _unit(tile.to(queries.device))
            # All of the first entries are sorted, so they shall be few.
            for some in tile.tensor_split([max(k, _FIRST)]) if seen < k else (tile,):
                rows = max(1, max_cells // max(len(some), 1))
                parts = zip(queries.split(rows), keys.split(rows), strict=True)
                keys = torch.cat([_pass(part, some, own, k, seen) for part, own in parts])
                seen += len(some)
        if not 0 < k <= seen:
            raise UserError(
                f"kNN with k={k} needs a bank of at least that many images, not {seen}; change k."
            )
    return _value(keys), _LOW - (keys & _LOW)


def _unit(features: Tensor) -> Tensor:
    features = features.float()
    if not features.isfinite().all():
        raise UserError(
            "kNN got features that are not finite: the encoder is broken; use an earlier checkpoint."
        )
    return normalize(features, dim=1)


def _pass(queries: Tensor, tile: Tensor, keys: Tensor, k: int, seen: int) -> Tensor:
    """Let a tile pass by some queries: the keys of the best k so far, descending."""
    similarity = times_transposed(queries, tile) if queries.device.type == "cpu" else queries @ tile.t()
    places = torch.arange(seen, seen + len(tile), device=queries.device)
    if keys.shape[1] < k:  # too few so far to tell what is not needed
        found = torch.cat((keys, _key(similarity, places)), dim=1)
        return found.topk(min(k, found.shape[1]), dim=1).values
    # Few entries of a later tile are among the best: only these are sorted.
    rows, columns = (similarity >= _value(keys[:, -1:])).nonzero(as_tuple=True)
    counts = torch.bincount(rows, minlength=len(queries))
    slots = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[rows]
    found = keys.new_full((len(queries), k + int(counts.max())), _LOWEST)
    found[:, :k] = keys
    found[rows, k + slots] = _key(similarity[rows, columns], places[columns])
    return found.topk(k, dim=1).values


def _key(similarity: Tensor, places: Tensor) -> Tensor:
    """Integers that sort by similarity, and at equal similarity by place, the first one highest.

    ``topk`` alone leaves open which of equal values it takes. Above are the bits of the float, which for negative
    numbers are turned round so that they sort; below is the place counted from the end.
    """
    bits = (similarity + 0.0).view(torch.int32)  # + 0.0 turns -0.0 into 0.0
    bits = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).long()
    return (bits << 32) + (_LOW - places)


def _value(keys: Tensor) -> Tensor:
    """The similarities in keys."""
    bits = (keys >> 32).int()
    return torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).view(torch.float32)
