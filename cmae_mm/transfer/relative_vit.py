"""Relative positions in mmpretrain's ViT, as encoders of BEiT, BEiT v2, data2vec, SimMIM and CAE have them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from cmae_mm.checkpoints.header import BackboneHeader
from cmae_mm.errors import UserError
from cmae_mm.transfer.attention import TableAttention, drop_key_bias


class SquareTableAttention(TableAttention):
    """Stands in for the attention of mmpretrain's blocks, which pass tokens alone: their number tells the grid.

    Args:
        replaced: mmpretrain's ``MultiheadAttention``, whose layer scale and drop path are kept.
        table_grid: Rows and columns of patches.
        class_token: Whether a class token comes first.
    """

    def __init__(self, replaced: Any, table_grid: tuple[int, int], class_token: bool) -> None:
        super().__init__(int(replaced.embed_dims), int(replaced.num_heads), table_grid, class_token)
        self.gamma1, self.out_drop = replaced.gamma1, replaced.out_drop
        for linear in (self.qkv, self.proj):
            nn.init.trunc_normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        """Mix tokens (B, N, C).

        Raises:
            UserError: If the patches are neither those of the table nor a square.
        """
        patches = x.shape[1] - self.class_token
        grid = self.table_grid
        if grid[0] * grid[1] != patches:
            grid = (math.isqrt(patches),) * 2
        if grid[0] * grid[1] != patches:
            raise UserError(
                f"model.backbone: relative_positions takes square images, or those of img_size; got {patches} patches"
            )
        mixed: torch.Tensor = self.out_drop(self.gamma1(super().forward(x, grid)))
        return mixed


def use_relative_positions(vit: Any) -> None:
    """Give each block of a ViT a bias table, and queries and values alone a bias, as those encoders have it.

    Args:
        vit: mmpretrain's ``VisionTransformer``; changed in place.
    """
    for layer in vit.layers:
        layer.attn = SquareTableAttention(layer.attn, tuple(vit.patch_resolution), vit.cls_token is not None)
    drop_key_bias(vit.layers)


def drop_positions(vit: Any) -> None:
    """Take a ViT's learnt positions away: zeros that no file and no optimizer sees.

    Args:
        vit: mmpretrain's ``VisionTransformer``; changed in place.
    """
    zeros = torch.zeros_like(vit.pos_embed)
    del vit.pos_embed
    vit.register_buffer("pos_embed", zeros, persistent=False)


def parts_of(header: BackboneHeader) -> dict[str, Any]:
    """What an ``ImageNetViT`` must have for an encoder, beside its sizes.

    Args:
        header: Of the encoder's file.

    Returns:
        Options; empty for a plain ViT.
    """
    found: dict[str, Any] = {}
    if header.relative_position:
        found["relative_positions"] = True
        if header.position == "none":
            found["positions"] = False
    if header.layer_scale:
        found["layer_scale_init_value"] = 0.1  # the file's values take its place
    return found
