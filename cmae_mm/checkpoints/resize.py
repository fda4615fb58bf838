"""Resize position embeddings to another grid."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F


def resize_pos_embed(pos: torch.Tensor, grid: tuple[int, int], prefix_tokens: int = 1) -> torch.Tensor:
    """Resize a square table of position embeddings, bicubic, without antialiasing.

    The prefix rows (class token) are kept as they are. Equal to mmpretrain's ``resize_pos_embed``.

    Args:
        pos: (1, prefix + G*G, C).
        grid: Target rows and columns of patches.
        prefix_tokens: Leading rows that have no place in the image.

    Returns:
        (1, prefix + rows*columns, C), same dtype.

    Raises:
        ValueError: If the source grid is not square.
    """
    side = math.isqrt(pos.shape[1] - prefix_tokens)
    if side * side != pos.shape[1] - prefix_tokens:
        raise ValueError(f"{pos.shape[1] - prefix_tokens} positions are not a square grid")
    if (side, side) == tuple(grid):
        return pos
    prefix, table = pos[:, :prefix_tokens], pos[:, prefix_tokens:]
    image = table.reshape(1, side, side, -1).permute(0, 3, 1, 2)
    image = F.interpolate(image.float(), size=grid, mode="bicubic", align_corners=False)
    flat = image.permute(0, 2, 3, 1).reshape(1, grid[0] * grid[1], -1).to(pos.dtype)
    return torch.cat((prefix, flat), dim=1)
