"""The fixed tables of position embeddings, and which of them a table is.

Both write the sine and cosine of one coordinate into the first half of the channels and of the other into the second:
with k = 0..C/4-1 and w_k = 10000^(-4k/C), the half of a coordinate p is (sin(p w_0), ..., cos(p w_0), ...). They differ
in which coordinate comes first: the column (MAE) or the row (MoCo v3, mmpretrain, CAE). One is the other's transpose.
"""

from __future__ import annotations

import math

import torch

# Largest error of a table that was stored in fewer bits; learned tables differ by far more.
_TOLERANCE = {torch.float16: 2e-3, torch.bfloat16: 1e-2}


def sincos_table(side: int, width: int, first: str = "row") -> torch.Tensor:
    """The fixed table.

    Args:
        side: Patches along one side.
        width: Channels, a multiple of 4.
        first: ``"row"`` or ``"col"``: the coordinate in the first half of the channels.

    Returns:
        (1, side * side, width), patches row by row, float32.
    """
    omega = 10000 ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    angle = torch.arange(side, dtype=torch.float64)[:, None] * omega
    half = torch.cat((angle.sin(), angle.cos()), dim=1)
    rows = half[:, None].expand(side, side, -1)
    columns = half[None].expand(side, side, -1)
    halves = (rows, columns) if first == "row" else (columns, rows)
    return torch.cat(halves, dim=-1).reshape(1, side * side, width).float()


def table_kind(table: torch.Tensor | None) -> str:
    """Tell a fixed table from a learned one.

    Args:
        table: (1, rows, C) with or without a leading row for the class token; None if there is none.

    Returns:
        ``"sincos_row"``, ``"sincos_col"``, ``"learned"``, or ``"none"``. The class row of a fixed one is zero.
    """
    if table is None:
        return "none"
    if table.ndim != 3 or 0 in table.shape or not table.is_floating_point():
        return "learned"
    rows, width = table.shape[1:]
    side = math.isqrt(rows)
    prefix = rows - side * side
    if prefix > 1 or width % 4 or side < 2:
        return "learned"
    tolerance = _TOLERANCE.get(table.dtype, 1e-4)
    if bool((table[:, :prefix].abs() > tolerance).any()):
        return "learned"
    for first in ("row", "col"):
        error = (table[:, prefix:].float() - sincos_table(side, width, first)).abs().max()
        if error <= tolerance:
            return f"sincos_{first}"
    return "learned"
