"""Transformer blocks of the dense backbones: what differs between them is the attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

import torch
from timm.layers import DropPath, LayerScale, Mlp
from torch import nn
from torch.utils.checkpoint import checkpoint

from cmae_mm.transfer.attention import Attention, DecomposedAttention, TableAttention

RelPos = Literal["none", "decomposed", "table"]


class Block(nn.Module):
    """One pre-norm transformer block; attention is global or inside windows.

    Args:
        attn: The attention module.
        dim: Width of a token.
        mlp_ratio: Hidden width of the MLP over ``dim``.
        drop_path: Probability of dropping a branch for a sample.
        window: Side of a window in patches; 0 is global attention.
        layer_scale: Initial scale of both branches; None has no scales.
    """

    def __init__(
        self,
        attn: Attention,
        dim: int,
        mlp_ratio: float,
        drop_path: float,
        window: int,
        layer_scale: float | None = None,
    ) -> None:
        super().__init__()
        self.window = window
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = attn
        self.ls1 = nn.Identity() if layer_scale is None else LayerScale(dim, layer_scale)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.ls2 = nn.Identity() if layer_scale is None else LayerScale(dim, layer_scale)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        """Transform tokens (B, N, C) that lie on ``grid``."""
        x = x + self.drop_path(self.ls1(self.attn(self.norm1(x), grid, self.window)))
        return x + self.drop_path(self.ls2(self.mlp(self.norm2(x))))


class BlockStack(nn.ModuleList):
    """The blocks of a ViT.

    Args:
        dim: Width of a token.
        num_heads: Heads.
        mlp_ratio: Hidden width of the MLP over the width.
        drop_paths: Probability of dropping a branch, for each block.
        grid: Rows and columns of the training image in patches: size of global relative-position tables.
        rel_pos: ``decomposed`` (ViTDet), ``table`` (BEiT) or ``none``.
        class_token: Whether a class token comes first; matters to tables only.
        window_size: Side of a window in patches.
        window_blocks: Blocks whose attention stays inside windows.
        layer_scale: Initial scale of the branches; None has no scales.
        share_tables: Let all windowed blocks have one table, and all global ones another.
        with_cp: Recompute blocks in the backward pass to save memory.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float,
        drop_paths: Sequence[float],
        grid: tuple[int, int],
        *,
        rel_pos: RelPos = "none",
        class_token: bool = False,
        window_size: int = 14,
        window_blocks: Sequence[int] = (),
        layer_scale: float | None = None,
        share_tables: bool = False,
        with_cp: bool = False,
    ) -> None:
        super().__init__()
        self.with_cp = with_cp
        shared: dict[int, nn.Parameter] = {}
        for i, drop_path in enumerate(drop_paths):
            window = window_size if i in window_blocks else 0
            sides = (window, window) if window else grid
            attn = _attention(rel_pos, dim, num_heads, sides, class_token)
            if share_tables and isinstance(attn, TableAttention):
                table = attn.relative_position_bias_table
                attn.relative_position_bias_table = shared.setdefault(window, table)
            self.append(Block(attn, dim, mlp_ratio, drop_path, window, layer_scale))

    def run(self, index: int, x: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        """Run one block on tokens (B, N, C) that lie on ``grid``."""
        block = self[index]
        if self.with_cp and x.requires_grad:
            return cast(torch.Tensor, checkpoint(block, x, grid, use_reentrant=False))
        return cast(torch.Tensor, block(x, grid))


def rising(rate: float, count: int) -> list[float]:
    """Drop-path probabilities that rise linearly from 0 at the first of ``count`` blocks to ``rate`` at the last."""
    return [rate * i / max(count - 1, 1) for i in range(count)]


def _attention(rel_pos: RelPos, dim: int, heads: int, grid: tuple[int, int], class_token: bool) -> Attention:
    if rel_pos == "decomposed":
        return DecomposedAttention(dim, heads, grid)
    if rel_pos == "table":
        return TableAttention(dim, heads, grid, class_token)
    return Attention(dim, heads)
