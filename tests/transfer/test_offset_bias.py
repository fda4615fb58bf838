"""Attention with a bias for each offset against loops over all pairs of places."""

import pytest
import torch

from cmae_mm.transfer.attention import TableAttention
from cmae_mm.transfer.offset_bias import (
    ALIGNMENT,
    attend_by_head,
    folded_sum,
    overlapping_sum,
    sum_of_offsets,
    written_bias,
)

GRIDS = [(1, 1), (1, 4), (3, 1), (2, 3), (4, 3)]


def _rows(grid, extra):
    return (2 * grid[0] - 1) * (2 * grid[1] - 1) + extra


def _slow_bias(table, grid, class_token):
    """(heads, N, N): entry by entry, queries in their own order."""
    (rows, columns), extra = grid, int(class_token)
    tokens = rows * columns + extra
    bias = table.new_zeros(table.shape[1], tokens, tokens)
    for i in range(tokens):
        for j in range(tokens):
            if class_token and (i == 0 or j == 0):
                row = -1 if i == j == 0 else -3 if i == 0 else -2
            else:
                a, b = i - extra, j - extra
                down, right = a // columns - b // columns, a % columns - b % columns
                row = (down + rows - 1) * (2 * columns - 1) + right + columns - 1
            bias[:, i, j] = table[row]
    return bias


@pytest.mark.parametrize("class_token", [True, False])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_written_bias_and_its_gradient_equal_loops(grid, class_token):
    torch.manual_seed(0)
    table = torch.randn(_rows(grid, 3 * class_token), 3, dtype=torch.float64, requires_grad=True)
    tokens = grid[0] * grid[1] + class_token
    bias = written_bias(table, grid, tokens, torch.float64)
    slow = _slow_bias(table, grid, class_token)
    torch.testing.assert_close(bias.flip(1), slow, atol=0, rtol=0)
    assert bias.stride()[:2] == (tokens * bias.stride(1), -(-tokens // ALIGNMENT) * ALIGNMENT)
    grad = torch.randn_like(slow)
    (expected,) = torch.autograd.grad(slow, table, grad)
    (actual,) = torch.autograd.grad(bias, table, grad.flip(1))
    torch.testing.assert_close(actual, expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(sum_of_offsets(grad.flip(1), grid), expected, atol=1e-12, rtol=0)


def test_gradient_of_a_half_precision_bias_is_added_up_in_float32():
    grid = (16, 16)
    table = torch.zeros(_rows(grid, 0), 1, requires_grad=True)
    written_bias(table, grid, 256, torch.bfloat16).backward(
        torch.full((1, 256, 256), 1.0, dtype=torch.bfloat16)
    )
    # The centre gets one from each of 256 places; a bfloat16 sum of ones stops at 256 at the latest.
    counts = 16 - torch.arange(-15.0, 16).abs()
    torch.testing.assert_close(table.grad[:, 0], torch.outer(counts, counts).flatten(), atol=0, rtol=0)


@pytest.mark.parametrize("class_token", [True, False])
@pytest.mark.parametrize("batch", [1, 3])
def test_attention_by_head_equals_the_written_out_form_with_all_gradients(batch, class_token):
    torch.manual_seed(1)
    grid, heads, width = (3, 4), 2, 5
    tokens = 12 + class_token
    table = torch.randn(_rows(grid, 3 * class_token), heads, dtype=torch.float64, requires_grad=True)
    qkv = torch.randn(batch, tokens, 3, heads, width, dtype=torch.float64, requires_grad=True)
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    logits = q @ k.mT * width**-0.5 + _slow_bias(table, grid, class_token)
    slow = logits.softmax(-1) @ v
    fast = attend_by_head(q.flip(2), k, v, table, grid).flip(2)
    torch.testing.assert_close(fast, slow, atol=1e-12, rtol=0)
    grad = torch.randn_like(slow)
    expected = torch.autograd.grad(slow, (qkv, table), grad)
    actual = torch.autograd.grad(fast, (qkv, table), grad)
    for ours, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)


@pytest.mark.parametrize("class_token", [True, False])
def test_the_fused_path_of_a_gpu_computes_the_same(class_token):
    """A half-precision query takes it on a CPU too; in float64 the two are compared through a table of another type."""
    torch.manual_seed(2)
    attn = TableAttention(16, 2, (3, 4), class_token)
    torch.nn.init.normal_(attn.relative_position_bias_table)
    x = torch.randn(2, 12 + class_token, 16)
    expected = attn(x, (3, 4))
    q, k, v = (t.double() for t in attn.qkv(x).view(2, -1, 3, 2, 8).permute(2, 0, 3, 1, 4).unbind(0))
    fused = attn.attend(q, k, v, (3, 4)).transpose(1, 2).reshape(x.shape).float()
    torch.testing.assert_close(attn.proj(fused), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_both_sums_of_overlapping_maps_agree(grid):
    torch.manual_seed(3)
    pairs = torch.randn(2, grid[0] * grid[1] + 1, grid[0] * grid[1] + 1, dtype=torch.float64)[:, 1:, 1:]
    torch.testing.assert_close(overlapping_sum(pairs, grid), folded_sum(pairs, grid), atol=1e-12, rtol=0)


def test_attention_by_head_is_exact_enough_in_float32():
    """oneDNN's products, where they are used, take float32 only."""
    torch.manual_seed(4)
    grid, heads = (5, 6), 2
    table = torch.randn(_rows(grid, 3), heads, requires_grad=True)
    q, k, v = (torch.randn(2, 31, 3, heads, 8).permute(2, 0, 3, 1, 4)).unbind(0)
    (grad,) = torch.autograd.grad(attend_by_head(q.flip(2), k, v, table, grid).sin().sum(), table)
    wide = table.detach().double().requires_grad_()
    slow = (
        (q.double() @ k.double().mT * 8**-0.5 + _slow_bias(wide, grid, True)).softmax(-1) @ v.double()
    ).flip(2)
    (expected,) = torch.autograd.grad(slow.sin().sum(), wide)
    torch.testing.assert_close(grad.double(), expected, atol=1e-5, rtol=1e-4)
