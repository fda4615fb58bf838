"""How far and how differently the heads of a ViT look."""

from __future__ import annotations

import torch
from torch import Tensor

_TINY = 1e-8


def attention_maps(qkv: Tensor, heads: int, bias: Tensor | float = 0.0) -> Tensor:
    """Attention weights from the output of a block's query, key and value layer.

    Args:
        qkv: (B, N, 3 C): queries, keys, values, each with its heads one after the other.
        heads: Their number.
        bias: (1, heads, N, N), what relative positions add to the scaled products.

    Returns:
        (B, heads, N, N) in float32; rows add up to 1.
    """
    query, key, _ = qkv.float().unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    return (query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5 + bias).softmax(-1)


def among_patches(weights: Tensor, extra: int = 1) -> Tensor:
    """Drop the class token as query and as key, and let rows add up to 1 again.

    Args:
        weights: (..., N, N).
        extra: Tokens in front of the patches.

    Returns:
        (..., N - extra, N - extra).
    """
    weights = weights[..., extra:, extra:]
    return weights / weights.sum(-1, keepdim=True).clamp_min(1e-32)


def patch_distances(grid: tuple[int, int], patch: int) -> Tensor:
    """Distances of patch centres in pixels.

    Args:
        grid: Rows and columns of patches.
        patch: Side of a patch in pixels.

    Returns:
        (N, N) float32 with N = rows * columns.
    """
    rows, columns = torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in grid), indexing="ij")
    places = torch.stack((rows.flatten(), columns.flatten()), dim=1) * patch
    return torch.cdist(places, places, compute_mode="donot_use_mm_for_euclid_dist")


def attention_distance(weights: Tensor, distances: Tensor) -> Tensor:
    """Mean distance in pixels from a patch to where it looks (Dosovitskiy et al. 2020, figure 7).

    Args:
        weights: (B, heads, N, N) among patches; rows add up to 1.
        distances: (N, N), see `patch_distances`.

    Returns:
        (B, heads): mean over queries of the sum over keys of weight times distance.
    """
    return (weights * distances.to(weights.device)).sum(-1).mean(-1)


def attention_nmi(weights: Tensor) -> Tensor:
    """Normalised mutual information of query and key: near 0 where all queries look alike (Park et al. 2023).

    With uniform queries, I(q, k) / sqrt(H(q) H(k)).

    Args:
        weights: (B, heads, N, N) among patches.

    Returns:
        (B, heads), from 0 to 1.
    """
    joint = (weights + _TINY) / (weights + _TINY).sum((-2, -1), keepdim=True)
    query, key = joint.sum(-1), joint.sum(-2)
    information = (joint * (joint / (query[..., None] * key[..., None, :])).log()).sum((-2, -1))
    entropy = [-(p * p.log()).sum(-1) for p in (query, key)]
    return information / (entropy[0] * entropy[1]).sqrt()
