"""Attention inside windows that computes nothing on padding, against padding the grid and cutting it off again."""

import pytest
import torch
import torch.nn.functional as F

from cmae_mm.transfer import attention
from cmae_mm.transfer.attention import Attention, DecomposedAttention, TableAttention
from cmae_mm.transfer.windows import map_windows

SIDE = 4
KINDS = {
    "none": lambda: Attention(16, 2),
    "decomposed": lambda: DecomposedAttention(16, 2, (SIDE, SIDE)),
    "table": lambda: TableAttention(16, 2, (SIDE, SIDE), class_token=False),
}
GRIDS = [(4, 4), (8, 8), (5, 4), (4, 7), (7, 9), (9, 4), (3, 3), (2, 3), (1, 1)]


def padded(attn, x, grid):
    """What detectron2 does: zeros behind the norm fill up the grid, and are keys like any other."""
    (rows, cols), (b, _, c) = grid, x.shape
    down, across = -(-rows // SIDE), -(-cols // SIDE)
    x = F.pad(x.view(b, rows, cols, c), (0, 0, 0, across * SIDE - cols, 0, down * SIDE - rows))
    x = x.view(b, down, SIDE, across, SIDE, c).transpose(2, 3).reshape(-1, SIDE * SIDE, c)
    x = attn(x, (SIDE, SIDE))
    x = x.view(b, down, across, SIDE, SIDE, c).transpose(2, 3).reshape(b, down * SIDE, across * SIDE, c)
    return x[:, :rows, :cols].reshape(b, rows * cols, c)


@pytest.mark.parametrize("write_out", [0, 1024])  # the fused kernel, and the CPU's own way
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("kind", KINDS)
def test_equals_attention_on_a_padded_grid(kind, grid, write_out, monkeypatch):
    monkeypatch.setattr(attention, "CPU_WRITE_OUT", write_out)
    torch.manual_seed(0)
    attn = KINDS[kind]().double()
    for param in attn.parameters():
        torch.nn.init.normal_(param, std=0.5)
    x = torch.randn(2, grid[0] * grid[1], 16, dtype=torch.float64, requires_grad=True)
    ours, theirs = attn(x, grid, SIDE), padded(attn, x, grid)
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)
    direction = torch.randn_like(ours)
    inputs = [x, *attn.parameters()]  # the biases of keys and values reach the padding
    for a, b in zip(
        torch.autograd.grad(ours, inputs, direction),
        torch.autograd.grad(theirs, inputs, direction),
        strict=True,
    ):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=0)


def test_no_gemm_sees_a_padded_token():
    seen = []
    attn = DecomposedAttention(16, 2, (SIDE, SIDE))
    for layer in (attn.qkv, attn.proj):
        layer.register_forward_hook(lambda m, inputs, out: seen.append(inputs[0].shape[1]))
    attn(torch.randn(1, 5 * 6, 16), (5, 6), SIDE)
    assert seen == [30, 30]


@pytest.mark.parametrize("grid", GRIDS)
def test_windows_come_back_where_they_were(grid):
    kinds = []

    def attend(qkv, shape, window):
        kinds.append(shape)
        assert qkv.shape[3:] == (shape[0] * shape[1], 5)
        return qkv[1]

    x = torch.arange(2 * grid[0] * grid[1] * 3 * 2 * 5).view(2, *grid, 3, 2, 5)
    torch.testing.assert_close(map_windows(x, SIDE, attend), x[:, :, :, 1])
    assert len(kinds) == len(set(kinds)) <= 4


@pytest.mark.parametrize("heads_at_once", [1, 3, 10**6])
def test_parts_of_the_heads_give_the_same_as_all(heads_at_once, monkeypatch):
    torch.manual_seed(0)
    attn, grid = DecomposedAttention(24, 4, (3, 5)).double(), (3, 5)
    torch.nn.init.normal_(attn.rel_pos_h)
    torch.nn.init.normal_(attn.rel_pos_w)
    x = torch.randn(2, 15, 24).double()
    monkeypatch.setattr(attention, "CPU_WRITE_OUT", 0)
    fused = attn(x, grid)
    monkeypatch.setattr(attention, "CPU_WRITE_OUT", 1024)
    monkeypatch.setattr(attention, "CPU_CACHED", heads_at_once * 15 * 15)
    torch.testing.assert_close(attn(x, grid), fused, atol=1e-12, rtol=0)
