"""Attention with a bias for each head and offset between two places, without an index over all pairs of places.

A table holds one value for each offset (down, right); pair (query, key) takes the value of query minus key. With the
queries in reverse order, the biases of a whole map are a strided *view* of the small table: row r and column c of
the query, counted from the end, and those of the key just add up. So writing a bias reads no index, and its gradient
is a sum along that view. A gather would read 8 bytes of index for each value, and its gradient would add a million
values one by one into a few thousand places.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from cmae_mm.engine.cpu import times_transposed

Grid = tuple[int, int]
ALIGNMENT = 16
"""Fused kernels on a GPU copy a mask whose rows do not start at multiples of so many values."""


def bias_view(table: Tensor, grid: Grid) -> Tensor:
    """See the biases of all pairs of places in a table.

    Args:
        table: ((2 * rows - 1) * (2 * columns - 1) or more, heads), offsets row by row.
        grid: Rows and columns.

    Returns:
        (heads, rows, columns, rows, columns): query counted from the end, then key. A view of a small copy.
    """
    rows, columns = grid
    down, right = 2 * rows - 1, 2 * columns - 1
    images = table[: down * right].T.reshape(-1, down, right).flip(1, 2)
    return images.unfold(1, rows, 1).unfold(2, columns, 1)


def write_bias(bias: Tensor, view: Tensor, table: Tensor) -> None:
    """Write biases out: (..., queries from the last to the first, keys), with the class token, if any, first of all.

    Args:
        bias: (heads, N, N) or (N, N), filled in place.
        view: Of :func:`bias_view` for all heads, or for one of them.
        table: The same heads' columns of the table; three more rows are class-to-patch, patch-to-class and
            class-to-class.
    """
    (rows, columns), places = view.shape[-2:], view.shape[-2] * view.shape[-1]
    first = bias.shape[-1] - places
    patches = bias[..., :places, first:]
    patches.unflatten(-1, (rows, columns)).unflatten(-3, (rows, columns)).copy_(view)
    if first:
        to_patch, to_class, itself = table[-3:]
        bias[..., -1, 1:] = to_patch.unsqueeze(-1) if bias.ndim == 3 else to_patch
        bias[..., :-1, 0] = to_class.unsqueeze(-1) if bias.ndim == 3 else to_class
        bias[..., -1, 0] = itself


def sum_of_offsets(grad: Tensor, grid: Grid) -> Tensor:
    """Add up the gradients of all pairs of places that have the same offset: the transpose of :func:`write_bias`.

    Args:
        grad: (heads, N, N), queries from the last to the first.
        grid: Rows and columns.

    Returns:
        (rows of the table, heads), float32 or wider.
    """
    rows, columns = grid
    places = rows * columns
    first = grad.shape[-1] - places
    grad = grad.to(torch.promote_types(grad.dtype, torch.float32))
    pairs = grad[:, :places, first:]
    images = overlapping_sum(pairs, grid) if grad.is_cpu else folded_sum(pairs, grid)
    table = images.flip(1, 2).flatten(1)
    if first:
        ends = (grad[:, -1, 1:].sum(1), grad[:, :-1, 0].sum(1), grad[:, -1, 0])
        table = torch.cat((table, torch.stack(ends, dim=1)), dim=1)
    return table.T


def folded_sum(pairs: Tensor, grid: Grid) -> Tensor:
    """Lay the map of keys of each query down at the query's place, and add up what overlaps.

    Args:
        pairs: (heads, places, places): query, then key.
        grid: Rows and columns.

    Returns:
        (heads, 2 * rows - 1, 2 * columns - 1).
    """
    return F.fold(pairs, (2 * grid[0] - 1, 2 * grid[1] - 1), grid)[:, 0]


def overlapping_sum(pairs: Tensor, grid: Grid) -> Tensor:
    """The same axis by axis in whole rows, which suits a CPU; a GPU would start a kernel for each row and column."""
    rows, columns = grid
    maps = pairs.unflatten(2, grid).unflatten(1, grid)
    by_column = pairs.new_zeros(len(pairs), rows, rows, 2 * columns - 1)
    for column in range(columns):
        by_column[..., column : column + columns] += maps[:, :, column]
    images = pairs.new_zeros(len(pairs), 2 * rows - 1, 2 * columns - 1)
    for row in range(rows):
        images[:, row : row + rows] += by_column[:, row]
    return images


class _WrittenBias(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, grid: Grid, tokens: int, dtype: torch.dtype) -> Tensor:
        ctx.grid, ctx.dtype = grid, table.dtype
        width = -(-tokens // ALIGNMENT) * ALIGNMENT
        values = table.to(dtype)
        bias = values.new_empty(table.shape[1], tokens, width)[..., :tokens]
        write_bias(bias, bias_view(values, grid), values)
        return bias

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        return sum_of_offsets(grad, ctx.grid).to(ctx.dtype), None, None, None


def written_bias(table: Tensor, grid: Grid, tokens: int, dtype: torch.dtype) -> Tensor:
    """Write the biases of all pairs out, for a fused kernel that takes them as a mask.

    The gradient is added up in float32 whatever the type of the mask.

    Args:
        table: (offsets, heads), or with three more rows where a class token comes first.
        grid: Rows and columns.
        tokens: N.
        dtype: Of the mask.

    Returns:
        (heads, N, N), queries from the last to the first.
    """
    return _WrittenBias.apply(table, grid, tokens, dtype)


class _Attend(torch.autograd.Function):
    """One head of one image at a time, so that its logits stay in the cache; the backward pass computes them again."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, table: Tensor, grid: Grid) -> Tensor:
        out = torch.empty_like(q.transpose(1, 2)).transpose(1, 2)  # as the next layer wants to read it
        weights = _Weights(q * q.shape[-1] ** -0.5, k, table, grid)
        for head in range(q.shape[1]):
            weights.take_head(head)
            for image in range(len(q)):
                torch.mm(weights.of(image), v[image, head], out=out[image, head])
        ctx.grid = grid
        ctx.save_for_backward(q, k, v, table, out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, table, out = ctx.saved_tensors
        scale = q.shape[-1] ** -0.5
        by_part = q.new_empty(3, q.shape[0], q.shape[2], q.shape[1], q.shape[3]).transpose(2, 3)
        grad_q, grad_k, grad_v = by_part.unbind(0)
        delta = (grad * out).sum(-1, keepdim=True)
        q = q * scale
        weights = _Weights(q, k, table, ctx.grid)
        of_table = torch.empty_like(table)
        for head in range(q.shape[1]):
            weights.take_head(head)
            total = q.new_zeros(())
            for image in range(len(q)):
                p, at = weights.of(image), (image, head)
                torch.mm(p.T, grad[at], out=grad_v[at])
                of_logits = times_transposed(grad[at], v[at]).sub_(delta[at]).mul_(p)
                torch.mm(of_logits, k[at], out=grad_q[at])
                torch.mm(of_logits.T, q[at], out=grad_k[at])
                total = total.add_(of_logits) if image else of_logits
            of_table[:, head] = sum_of_offsets(total[None], ctx.grid)[:, 0]
        grad_q *= scale  # the gradient of the key has the scale of the query already
        return grad_q, grad_k, grad_v, of_table, None


class _Weights:
    """Attention weights of one head and image at a time, in memory that is used again."""

    def __init__(self, q: Tensor, k: Tensor, table: Tensor, grid: Grid) -> None:
        """The query is scaled."""
        self._q, self._k, self._table = q, k, table
        self._view = bias_view(table, grid)
        shape = q.shape[2], k.shape[2]
        self._bias, self._weights = q.new_empty(shape), q.new_empty(shape)

    def take_head(self, head: int) -> None:
        self._head = head
        write_bias(self._bias, self._view[head], self._table[:, head])

    def of(self, image: int) -> Tensor:
        logits = times_transposed(self._q[image, self._head], self._k[image, self._head]).add_(self._bias)
        return torch.softmax(logits, -1, out=self._weights)


def attend_by_head(q: Tensor, k: Tensor, v: Tensor, table: Tensor, grid: Grid) -> Tensor:
    """Attention with biases for a CPU, which never has more than one head's logits.

    Args:
        q: (B, heads, N, D), from the last token to the first.
        k: (B, heads, N, D).
        v: (B, heads, N, D).
        table: (offsets, heads), or with three more rows where a class token comes first.
        grid: Rows and columns.

    Returns:
        (B, heads, N, D), in the order of ``q``.
    """
    return _Attend.apply(q, k, v, table, grid)
