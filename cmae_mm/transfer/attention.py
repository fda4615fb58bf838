"""Multi-head self-attention with three kinds of relative position, on one fused kernel.

Parameter names are timm's (``qkv``, ``proj``). All kinds share one call: tokens (B, N, C) and the
grid (rows, columns) that the last rows*columns tokens lie on.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import nn

from cmae_mm.transfer.offset_bias import attend_by_head, written_bias
from cmae_mm.transfer.windows import map_windows

CPU_WRITE_OUT = 1024
"""Up to this many keys the CPU is faster with a written-out softmax than with its fused kernel."""
CPU_CACHED = 2**20
"""Logits that are written out at once: 4 MB stay in the cache, and in memory that the process already has."""


class Attention(nn.Module):
    """Self-attention without relative positions; the base of the other two.

    Inside windows the grid is padded with zeros at the bottom and right, as detectron2 pads, whose weights and
    results we want to meet. The padding comes after the norm and is not masked, so a padded place is a key with
    the bias of the key layer and a value with the bias of the value layer. Nothing is computed on it: all padded
    places of a window have the same key and value, so together they are one key whose logit is the
    log-sum-exp of theirs, see :meth:`attend_padded`. Exact.

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

    def forward(self, x: torch.Tensor, grid: tuple[int, int], window: int = 0) -> torch.Tensor:
        """Mix tokens.

        Args:
            x: (B, N, C).
            grid: Rows and columns of the patch tokens.
            window: Side of the windows that attention stays in; 0 is global attention.

        Returns:
            (B, N, C).
        """
        b, n, c = x.shape
        heads = self.qkv(x).view(b, n, 3, self.num_heads, self.head_dim)
        if window:
            mixed = map_windows(heads.unflatten(1, grid), window, self._attend_window).flatten(1, 2)
        else:
            q, k, v = heads.permute(2, 0, 3, 1, 4).unbind(0)
            mixed = self.attend(q, k, v, grid).transpose(1, 2)
        return self.proj(mixed.reshape(b, n, c))

    def _attend_window(self, qkv: torch.Tensor, grid: tuple[int, int], window: int) -> torch.Tensor:
        """Attention among the places ``grid`` of one kind of window: (3, B, heads, N, head_dim)."""
        q, k, v = qkv.unbind(0)
        if grid == (window, window):
            return self.attend(q, k, v, grid)
        _, key, value = self.qkv.bias.to(q.dtype).view(3, 1, self.num_heads, 1, self.head_dim).unbind(0)
        k, v = (torch.cat((x, pad.expand(len(x), -1, -1, -1)), 2) for x, pad in ((k, key), (v, value)))
        return self.attend_padded(q, k, v, grid, window)

    def attend(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, grid: tuple[int, int]
    ) -> torch.Tensor:
        """Weigh values by the softmax of scaled products; all tensors are (B, heads, N, head_dim)."""
        del grid
        return F.scaled_dot_product_attention(q, k, v)

    def attend_padded(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, grid: tuple[int, int], window: int
    ) -> torch.Tensor:
        """Like :meth:`attend` in the corner ``grid`` of a window; the last key is the padding, all of it."""
        rest = window * window - grid[0] * grid[1]
        bias = q.new_zeros(k.shape[2])
        bias[-1] = math.log(rest)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias.expand(q.shape[2], -1))


class QueryValueBiasLinear(nn.Linear):
    """The layer of queries, keys and values with a bias for queries and values only; the parameter keeps its shape."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the layer to (..., in_features)."""
        query, _, value = self.bias.chunk(3)
        return F.linear(x, self.weight, torch.cat((query, torch.zeros_like(query), value)))


def drop_key_bias(blocks: nn.Module) -> None:
    """Let keys have no bias, as in BEiT; it changes no attention weight, so without it none is learnt.

    Args:
        blocks: Whatever holds the attention; parameters keep their names and shapes.
    """
    for module in blocks.modules():
        if isinstance(module, Attention):
            module.qkv.__class__ = QueryValueBiasLinear


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
        by_row, by_col = self._biases(q, grid, grid)
        if q.device.type == "cpu" and q.shape[2] <= CPU_WRITE_OUT:
            return written_out_attention(q * self.head_dim**-0.5, k, v, by_row, by_col)
        query = torch.cat((q * self.head_dim**-0.5, by_row, by_col), dim=-1)
        codes = position_codes(*grid, q.device).to(k.dtype).expand(*k.shape[:2], -1, -1)
        return fused_attention(query, torch.cat((k, codes), dim=-1), v)

    def attend_padded(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, grid: tuple[int, int], window: int
    ) -> torch.Tensor:
        """See the base class: here the padding's logit depends on the place of the query."""
        by_row, by_col = self._biases(q, grid, (window, window))
        rows, columns = grid
        full = torch.promote_types(q.dtype, torch.float32)
        pad = _log_sum_of_padding(by_row.to(full), by_col.to(full), grid).to(q.dtype)
        scaled = q * self.head_dim**-0.5
        query = torch.cat((scaled, by_row[..., :rows], by_col[..., :columns], pad), dim=-1)
        codes = F.pad(position_codes(*grid, q.device), (0, 1, 0, 1))
        codes[-1, -1] = 1
        codes = codes.to(k.dtype).expand(*k.shape[:2], -1, -1)
        return fused_attention(query, torch.cat((k, codes), dim=-1), v)

    def _biases(
        self, q: torch.Tensor, grid: tuple[int, int], keys: tuple[int, int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The last two terms: queries (B, heads, N, D) on ``grid`` by rows and by columns of ``keys``."""
        spatial = q.unflatten(2, grid)
        rows = axis_table(self.rel_pos_h, keys[0])[: grid[0]]
        columns = axis_table(self.rel_pos_w, keys[1])[: grid[1]]
        by_row = torch.einsum("bnhwd,hkd->bnhwk", spatial, rows)
        by_col = torch.einsum("bnhwd,wkd->bnhwk", spatial, columns)
        return by_row.flatten(2, 3), by_col.flatten(2, 3)


def fused_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Attention with the scale already in the query, whose channels may outnumber those of the value.

    Args:
        query: (B, heads, N, D).
        key: (B, heads, M, D).
        value: (B, heads, M, E), E at most D.

    Returns:
        (B, heads, N, E).
    """
    if query.device.type == "cpu" and key.shape[2] <= CPU_WRITE_OUT:
        return (query @ key.transpose(-2, -1)).softmax(-1) @ value
    # Kernels want equal channels in q, k and v; without the zeros they fall back to N x N maps.
    value, width = F.pad(value, (0, key.shape[-1] - value.shape[-1])), value.shape[-1]
    return F.scaled_dot_product_attention(query, key, value, scale=1.0)[..., :width]


def written_out_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, by_row: torch.Tensor, by_col: torch.Tensor
) -> torch.Tensor:
    """Attention with a bias row term + column term, every logit written out, as many heads at a time as fit the cache.

    Args:
        query: (B, heads, N, D), scaled.
        key: (B, heads, N, D).
        value: (B, heads, N, D).
        by_row: (B, heads, N, rows), rows * columns = N.
        by_col: (B, heads, N, columns).

    Returns:
        (B, heads, N, D).
    """
    step = max(1, CPU_CACHED // query.shape[2] ** 2)
    parts = [x.flatten(0, 1).split(step) for x in (query, key, value, by_row, by_col)]
    mixed = []
    for q, k, v, row, column in zip(*parts, strict=True):
        bias = (row.unsqueeze(-1) + column.unsqueeze(-2)).flatten(2)
        mixed.append(torch.baddbmm(bias, q, k.transpose(1, 2)).softmax(-1) @ v)
    return torch.cat(mixed).view(value.shape)


def _log_sum_of_padding(by_row: torch.Tensor, by_col: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """Log of the sum of exp(row term + column term) over the padded places of a window.

    They are all columns of the padded rows, and the padded columns of the other rows; on each of the two the
    sum is a product of sums.

    Args:
        by_row: (..., N, window), by row of the window.
        by_col: (..., N, window), by column.
        grid: Rows and columns that are not padding.

    Returns:
        (..., N, 1).
    """
    rows, columns = grid
    terms = []
    if rows < by_row.shape[-1]:
        terms.append(by_row[..., rows:].logsumexp(-1, True) + by_col.logsumexp(-1, True))
    if columns < by_col.shape[-1]:
        terms.append(by_row[..., :rows].logsumexp(-1, True) + by_col[..., columns:].logsumexp(-1, True))
    return terms[0] if len(terms) == 1 else torch.logaddexp(*terms)


class TableAttention(Attention):
    """Attention with a learned bias for each head and 2-D offset (BEiT, MAE, Li et al. 2021).

    The table starts at zero, as MAE does when it is transferred to segmentation. With a class token in front its
    last three rows are class-to-patch, patch-to-class and class-to-class.

    Args:
        dim: Width of a token.
        num_heads: Heads.
        table_grid: Rows and columns the table is made for; other grids interpolate it bicubically.
        class_token: Whether the first token is a class token.
    """

    def __init__(
        self, dim: int, num_heads: int, table_grid: tuple[int, int], class_token: bool = True
    ) -> None:
        super().__init__(dim, num_heads)
        self.table_grid = table_grid
        self.class_token = class_token
        offsets = (2 * table_grid[0] - 1) * (2 * table_grid[1] - 1)
        rows = offsets + 3 if class_token else offsets
        self.relative_position_bias_table = nn.Parameter(torch.zeros(rows, num_heads))

    def attend(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, grid: tuple[int, int]
    ) -> torch.Tensor:
        """See the class."""
        table, reverse = self._table(grid), q.flip(2)
        if q.device.type == "cpu" and q.dtype == table.dtype:
            return attend_by_head(reverse, k, v, table, grid).flip(2)
        bias = written_bias(table, grid, q.shape[2], q.dtype)
        return F.scaled_dot_product_attention(reverse, k, v, attn_mask=bias[None]).flip(2)

    def attend_padded(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, grid: tuple[int, int], window: int
    ) -> torch.Tensor:
        """See the base class."""
        (rows, columns), sides = grid, (window, window)
        bias = (
            self.bias_of(sides).unflatten(3, sides).unflatten(2, sides)[:, :, :rows, :columns].flatten(2, 3)
        )
        terms = [bias[..., :rows, columns:], bias[..., rows:, :]]
        padding = torch.cat([x.flatten(3) for x in terms], dim=3).logsumexp(3, keepdim=True)
        bias = torch.cat((bias[..., :rows, :columns].flatten(3), padding), dim=3)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))

    def bias_of(self, grid: tuple[int, int]) -> torch.Tensor:
        """What is added to the scaled products of a grid's tokens.

        Args:
            grid: Rows and columns of patches.

        Returns:
            (1, heads, N, N): one bias serves the whole batch, so it is small beside the activations.
        """
        table = self._table(grid)
        tokens = grid[0] * grid[1] + self.class_token
        return written_bias(table, grid, tokens, table.dtype).flip(1)[None]

    def _table(self, grid: tuple[int, int]) -> torch.Tensor:
        table = self.relative_position_bias_table
        if grid == self.table_grid:
            return table
        old = (2 * self.table_grid[0] - 1, 2 * self.table_grid[1] - 1)
        new = (2 * grid[0] - 1, 2 * grid[1] - 1)
        places = old[0] * old[1]
        image = table[:places].T.reshape(1, self.num_heads, *old)
        image = F.interpolate(image, size=new, mode="bicubic", align_corners=False)
        return torch.cat((image.flatten(2)[0].T, table[places:]))


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
