"""Resize what belongs to places in the image: position embeddings and relative-position tables.

Only stored values are resized. Nothing is generated anew, so the order of the axes in which a fixed
table was written (MAE's and MoCo's differ) does not matter.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F

Grid = tuple[int, int]


def resize_pos_embed(
    pos: torch.Tensor,
    grid: Grid,
    prefix_tokens: int = 1,
    source: Grid | None = None,
    antialias: bool = False,
) -> torch.Tensor:
    """Resize a table of position embeddings, bicubic.

    The prefix rows (class token) are kept as they are. Equal to mmpretrain's ``resize_pos_embed``, and
    with ``antialias`` to timm's ``resample_abs_pos_embed``.

    Args:
        pos: (1, prefix + G*G, C), or (1, prefix + rows*columns, C) with ``source``.
        grid: Target rows and columns of patches.
        prefix_tokens: Leading rows that have no place in the image.
        source: Rows and columns of the table; None for a square one.
        antialias: Widen the filter where the table shrinks.

    Returns:
        (1, prefix + rows*columns, C), same dtype; the very same tensor if the grid stays.

    Raises:
        ValueError: If the table does not have the rows of its source grid, or is no such table.
    """
    if pos.ndim != 3 or 0 in pos.shape or pos.shape[0] != 1:
        raise ValueError(f"a table of the shape {tuple(pos.shape)} is none of positions")
    places = pos.shape[1] - prefix_tokens
    if source is None:
        source = (math.isqrt(max(places, 0)),) * 2
        if source[0] ** 2 != places or places == 0:
            raise ValueError(f"{places} positions are not a square grid")
    if source[0] * source[1] != places or min(source) < 1:
        raise ValueError(f"{places} positions are not a grid of {source[0]}x{source[1]}")
    if tuple(source) == tuple(grid):
        return pos
    prefix, table = pos[:, :prefix_tokens], pos[:, prefix_tokens:]
    image = table.reshape(1, *source, -1).permute(0, 3, 1, 2)
    image = F.interpolate(image.float(), size=grid, mode="bicubic", align_corners=False, antialias=antialias)
    flat = image.permute(0, 2, 3, 1).reshape(1, grid[0] * grid[1], -1).to(pos.dtype)
    return torch.cat((prefix, flat), dim=1)


def resize_rel_pos_table(
    table: torch.Tensor, window_from: Grid, window_to: Grid, extra_rows: int = 3
) -> torch.Tensor:
    """Resize a relative-position table by BEiT's geometric scheme.

    The old offsets 0, 1, 2, ... are moved to 0, 1, 1 + q, 1 + q + q^2, ..., with the ratio q for which the
    outermost lands on the outermost new offset. Near offsets keep their meaning so, and only far ones are
    stretched. A bicubic spline through the moved points is read at the new whole offsets. mmpretrain, mmseg and
    BEiT do the same with ``scipy.interpolate.interp2d``, which SciPy no longer has.

    Args:
        table: ((2*rows - 1) * (2*columns - 1) + extra_rows, heads).
        window_from: Rows and columns of patches that the table was made for.
        window_to: Those it is needed for.
        extra_rows: Last rows, for the class token: kept as they are.

    Returns:
        The table for ``window_to``, same dtype; the very same tensor if the window stays.

    Raises:
        ValueError: If the table does not have the rows of its window, or is no such table.
    """
    old, new = ((2 * w[0] - 1, 2 * w[1] - 1) for w in (window_from, window_to))
    if table.ndim != 2 or 0 in table.shape:
        raise ValueError(f"a table of the shape {tuple(table.shape)} is none of relative positions")
    if table.shape[0] != old[0] * old[1] + extra_rows:
        raise ValueError(
            f"{table.shape[0]} rows are not a table of {old[0]}x{old[1]} offsets and {extra_rows}"
        )
    if old == new:
        return table
    by_row, by_column = (torch.from_numpy(_spline_matrix(old[i], new[i])).to(table.device) for i in (0, 1))
    offsets = table[: old[0] * old[1]].double().view(*old, -1)
    resized = torch.einsum("yr,xc,rch->yxh", by_row, by_column, offsets).flatten(0, 1).to(table.dtype)
    return torch.cat((resized, table[old[0] * old[1] :]))


def geometric_offsets(old: int, new: int) -> np.ndarray:
    """Coordinates at which an axis of ``old`` offsets is placed when ``new`` are needed.

    The ratio is sought between 1.01 and 1.5, as in BEiT; beyond that the ends do not meet.

    Args:
        old: Offsets of the table on this axis, an odd number.
        new: Offsets needed, an odd number.

    Returns:
        (old,) increasing, symmetric about 0.
    """
    steps, low, high = np.arange(old // 2), 1.01, 1.5
    while high - low > 1e-6:
        ratio = (low + high) / 2
        if (ratio**steps).sum() > new // 2:
            high = ratio
        else:
            low = ratio
    reach = np.cumsum(ratio**steps)
    return np.concatenate((-reach[::-1], [0.0], reach))


@lru_cache(maxsize=16)  # every block has a table of the same sizes
def _spline_matrix(old: int, new: int) -> np.ndarray:
    """(new, old): values at the old offsets to values of their spline at the new ones.

    A spline on a grid is linear in its values and goes axis by axis, so two such matrices replace a
    surface fit for each head.
    """
    from scipy.interpolate import make_interp_spline

    if old == 1:
        return np.ones((new, 1))
    nodes = geometric_offsets(old, new)
    # No extrapolation: beyond the outermost node its value stays, as interp2d had it.
    wanted = (np.arange(new) - float(new // 2)).clip(nodes[0], nodes[-1])
    return make_interp_spline(nodes, np.eye(old), k=min(3, old - 1))(wanted)
