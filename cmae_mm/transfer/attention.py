"""Multi-head self-attention with three kinds of relative position, on one fused kernel.

Parameter names are timm's (``qkv``, ``proj``). All kinds share one call: tokens (B, N, C) and the
grid (rows, columns) that the last rows*columns tokens lie on.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import nn

CPU_WRITE_OUT = 1024
"""Up to this many tokens the CPU is faster with a written-out softmax than with its fused kernel."""


class Attention(nn.Module):
    """Self-attention without relative positions; the base of the other two.

    Args:
        dim: Width of a token.
        num_heads: Heads; divides ``dim``.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = dim // num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        """Mix tokens.

        Args:
            x: (B, N, C).
            grid: Rows and columns of the patch tokens.

        Returns:
            (B, N, C).
        """
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        return self.proj(self.attend(q, k, v, grid).transpose(1, 2).reshape(b, n, c))

    def attend(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, grid: tuple[int, int]
    ) -> torch.Tensor:
        """Weigh values by the softmax of scaled products; all tensors are (B, heads, N, head_dim)."""
        del grid
        return F.scaled_dot_product_attention(q, k, v)


class DecomposedAttention(Attention):
    """Attention with one relative-position table an axis, as in ViTDet (arXiv 2203.16527, section 4.1).

    logit(i, j) = scale * q_i.k_j + q_i.R_h[row_i - row_j] + q_i.R_w[col_i - col_j], where the query of the
    last two terms is not scaled (detectron2). The bias has rank rows + columns, so it is written as
    extra channels: the query gets its products with R_h and R_w appended, the key a one-hot code of its
    row and column. The N x N bias never exists and every fused kernel stays
    eligible. Exact.

    Args:
        dim: Width of a token.
        num_heads: Heads.
        table_grid: Rows and columns the tables are made for; other grids interpolate them linearly.
    """

    def __init__(self, dim: int, num_heads: int, table_grid: tuple[int, int]) -> None:
        super().__init__(dim, num_heads)
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * table_grid[0] - 1, self.head_dim))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * table_grid[1] - 1, self.head_dim))

    def attend(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, grid: tuple[int, int]
    ) -> torch.Tensor:
        """See the class."""
        spatial = q.unflatten(2, grid)
        by_row = torch.einsum("bnhwd,hkd->bnhwk", spatial, axis_table(self.rel_pos_h, grid[0]))
        by_col = torch.einsum("bnhwd,wkd->bnhwk", spatial, axis_table(self.rel_pos_w, grid[1]))
        query = torch.cat((q * self.head_dim**-0.5, by_row.flatten(2, 3), by_col.flatten(2, 3)), dim=-1)
        codes = position_codes(*grid, q.device).to(k.dtype).expand(*k.shape[:2], -1, -1)
        key = torch.cat((k, codes), dim=-1)
        if q.device.type == "cpu" and q.shape[2] <= CPU_WRITE_OUT:
            return (query @ key.transpose(-2, -1)).softmax(-1) @ v
        # Kernels want equal channels in q, k and v; without the zeros they fall back to N x N maps.
        value = F.pad(v, (0, key.shape[-1] - v.shape[-1]))
        return F.scaled_dot_product_attention(query, key, value, scale=1.0)[..., : self.head_dim]


class TableAttention(Attention):
    """Attention with a learned bias for each head and 2-D offset, and a class token in front (BEiT, MAE).

    The table starts at zero, as MAE does when it is transferred to segmentation. Its last three rows are
    class-to-patch, patch-to-class and class-to-class.

    Args:
        dim: Width of a token.
        num_heads: Heads.
        table_grid: Rows and columns the table is made for; other grids interpolate it bicubically.
    """

    def __init__(self, dim: int, num_heads: int, table_grid: tuple[int, int]) -> None:
        super().__init__(dim, num_heads)
        self.table_grid = table_grid
        offsets = (2 * table_grid[0] - 1) * (2 * table_grid[1] - 1)
        self.relative_position_bias_table = nn.Parameter(torch.zeros(offsets + 3, num_heads))

    def attend(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, grid: tuple[int, int]
    ) -> torch.Tensor:
        """See the class."""
        # One bias serves the whole batch, so it is small beside the activations. Selecting columns of the
        # transposed table writes it head by head; gathering rows and permuting takes twice as long.
        index = table_index(*grid, q.device)
        bias = torch.index_select(self._table(grid).T, 1, index.view(-1)).view(1, -1, *index.shape)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))

    def _table(self, grid: tuple[int, int]) -> torch.Tensor:
        table = self.relative_position_bias_table
        if grid == self.table_grid:
            return table
        old = (2 * self.table_grid[0] - 1, 2 * self.table_grid[1] - 1)
        new = (2 * grid[0] - 1, 2 * grid[1] - 1)
        image = table[:-3].T.reshape(1, self.num_heads, *old)
        image = F.interpolate(image, size=new, mode="bicubic", align_corners=False)
        return torch.cat((image.flatten(2)[0].T, table[-3:]))


def axis_table(table: torch.Tensor, size: int) -> torch.Tensor:
    """Look up the vector of every pair of places on one axis.

    Args:
        table: (2*G - 1, D), row g holds the offset g - (G - 1).
        size: Places on the axis; the table is interpolated linearly if G differs.

    Returns:
        (size, size, D), entry [i, j] belongs to the offset i - j.
    """
    if table.shape[0] != 2 * size - 1:
        table = F.interpolate(table.T[None], size=2 * size - 1, mode="linear")[0].T
    return F.embedding(_axis_index(size, table.device), table)


# The indices below depend on sizes only. They are made once for each size and device, because
# building them in every block of every step costs a transfer and a synchronisation each.


@lru_cache(maxsize=64)
def _axis_index(size: int, device: torch.device) -> torch.Tensor:
    with torch.inference_mode(False):
        places = torch.arange(size, device=device)
        return places[:, None] - places[None, :] + size - 1


@lru_cache(maxsize=64)
def position_codes(rows: int, columns: int, device: torch.device) -> torch.Tensor:
    """Return (rows*columns, rows + columns): one-hot row beside one-hot column of each place."""
    with torch.inference_mode(False):
        row = torch.eye(rows, device=device).repeat_interleave(columns, dim=0)
        column = torch.eye(columns, device=device).repeat(rows, 1)
        return torch.cat((row, column), dim=1)


@lru_cache(maxsize=64)
def table_index(rows: int, columns: int, device: torch.device) -> torch.Tensor:
    """Return (1 + rows*columns, 1 + rows*columns): the row of the bias table for each query and key.

    The class token comes first. The order of offsets is that of BEiT, so its tables fit.
    """
    with torch.inference_mode(False):
        row = torch.arange(rows, device=device).repeat_interleave(columns)
        column = torch.arange(columns, device=device).repeat(rows)
        down = row[:, None] - row[None, :] + rows - 1
        right = column[:, None] - column[None, :] + columns - 1
        offsets = (2 * rows - 1) * (2 * columns - 1)
        index = torch.empty(1 + rows * columns, 1 + rows * columns, dtype=torch.long, device=device)
        index[1:, 1:] = down * (2 * columns - 1) + right
        index[0, :] = offsets
        index[:, 0] = offsets + 1
        index[0, 0] = offsets + 2
        return index
