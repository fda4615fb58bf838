"""The hybrid encoder: two masked convolutional stages, then a ViT (ConvMAE, arXiv 2205.03892)."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any, Literal, NamedTuple

import torch
from mmengine.model import BaseModule, ModuleList
from mmpretrain.models.utils import build_2d_sincos_position_embedding, resize_pos_embed
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from cmae_mm.errors import UserError
from cmae_mm.layers.conv_stages import ConvBlock, PatchConv, PatchEmbed, VisibleCells
from cmae_mm.pretrain.backbone import XAVIER_INIT, zero_mlp_biases
from cmae_mm.pretrain.blocks import Block
from cmae_mm.pretrain.masking import DrawsMasks, Mask


class HybridArch(NamedTuple):
    """Sizes of a hybrid ViT, one value for each of the three stages.

    Attributes:
        widths: Channels.
        depths: Blocks.
        mlp_ratios: Hidden width of the MLPs over the width.
        heads: Attention heads of stage 3.
    """

    widths: tuple[int, int, int]
    depths: tuple[int, int, int]
    mlp_ratios: tuple[float, float, float]
    heads: int


# 11 attention blocks: the twelfth of ViT-B pays for the convolutions.
ARCHS = {"b": HybridArch((256, 384, 768), (2, 2, 11), (4, 4, 4), 12)}


def read_arch(arch: str | Mapping[str, Any]) -> HybridArch:
    """Look up or check an architecture.

    Args:
        arch: A name of `ARCHS`, or a mapping with the fields of `HybridArch`.

    Raises:
        UserError: The name is unknown, a field is missing or unknown, or sizes do not fit each other.
    """
    if isinstance(arch, str):
        if arch not in ARCHS:
            raise UserError(
                f"backbone.arch is {arch!r}; choose from {sorted(ARCHS)} or give a dict of sizes."
            )
        return ARCHS[arch]
    if set(arch) != set(HybridArch._fields):
        raise UserError(f"backbone.arch has the fields {sorted(arch)}; give {sorted(HybridArch._fields)}.")
    widths, depths, ratios = (tuple(arch[name]) for name in ("widths", "depths", "mlp_ratios"))
    read = HybridArch(widths, depths, ratios, int(arch["heads"]))
    if {len(read.widths), len(read.depths), len(read.mlp_ratios)} != {3}:
        raise UserError(
            "backbone.arch: widths, depths and mlp_ratios need three values each, one for a stage."
        )
    if read.widths[2] % read.heads or read.widths[2] % 4:
        raise UserError(
            f"backbone.arch: the last width, {read.widths[2]}, must be a multiple of 4 and of heads, {read.heads}."
        )
    return read


@MODELS.register_module()
class CMAEHybridViT(DrawsMasks, BaseModule):
    """A ViT behind two convolutional stages, pretrained with masks; the counterpart of `CMAEViT`.

    Masked, only visible cells are computed. Hidden pixels have no influence at all, whatever they hold.
    There is no class token. Blocks of stage 3 have OpenMMLab's names, the rest has ConvMAE's
    (`cmae_mm.checkpoints.sources.convmae`).

    Args:
        arch: ``"b"``, or a dict with the fields of `HybridArch`.
        img_size: Training image in pixels: one side, or (height, width). Sets the size of the position table.
        patch_sizes: Kernel and stride of the three patch embeddings; their product is the side of a cell.
        mask_kind: ``"block"`` hides squares of cells, ``"random"`` single cells.
        mask_ratio: Share of hidden cells.
        mask_block: Side of a block in cells.
        fusion: Add the outputs of stages 1 and 2, projected, to the visible tokens. Pretraining only: a target
            encoder and transfer do without.
        final_norm: Whether there is a layer norm at the end.
        init_cfg: mmengine initialisation; the default is ConvMAE's, with PyTorch's own for convolutions.

    Raises:
        UserError: Arguments do not fit each other.
    """

    num_extra_tokens = 0
    with_cls_token = False

    def __init__(
        self,
        arch: str | Mapping[str, Any] = "b",
        img_size: int | tuple[int, int] = 224,
        patch_sizes: tuple[int, int, int] = (4, 2, 2),
        *,
        mask_kind: Literal["block", "random"] = "block",
        mask_ratio: float = 0.65,
        mask_block: int = 2,
        fusion: bool = True,
        final_norm: bool = True,
        init_cfg: Any = None,
    ) -> None:
        if len(patch_sizes) != 3:
            raise UserError(f"backbone.patch_sizes is {patch_sizes}; give three sides, one for a stage.")
        super().__init__([dict(rule) for rule in XAVIER_INIT] if init_cfg is None else init_cfg)
        self.arch = read_arch(arch)
        self.set_masking(mask_kind, mask_ratio, mask_block)
        self.fusion, self.final_norm = fusion, final_norm
        self.patch_size = prod(patch_sizes)
        self.img_size = (img_size, img_size) if isinstance(img_size, int) else (img_size[0], img_size[1])
        self.patch_resolution = self.grid_of(*self.img_size)
        self.embed_dims, self.num_layers = self.arch.widths[2], self.arch.depths[2]
        self._build(tuple(patch_sizes))

    def _build(self, patch_sizes: tuple[int, ...]) -> None:
        widths, depths, ratios, heads = self.arch
        width = widths[2]
        self.patch_embed1 = PatchEmbed(3, widths[0], patch_sizes[0])
        self.patch_embed2 = PatchEmbed(widths[0], widths[1], patch_sizes[1])
        self.patch_embed3 = PatchEmbed(widths[1], width, patch_sizes[2])
        self.patch_embed4 = nn.Linear(width, width)
        self.pos_embed = nn.Parameter(torch.zeros(1, prod(self.patch_resolution), width), requires_grad=False)
        self.blocks1 = nn.ModuleList(ConvBlock(widths[0], ratios[0]) for _ in range(depths[0]))
        self.blocks2 = nn.ModuleList(ConvBlock(widths[1], ratios[1]) for _ in range(depths[1]))
        norm = {"type": "LN", "eps": 1e-6}
        self.layers = ModuleList(
            Block(width, heads, int(width * ratios[2]), norm_cfg=norm) for _ in range(depths[2])
        )
        if self.fusion:
            self.stage1_output_decode = PatchConv(widths[0], width, prod(patch_sizes[1:]))
            self.stage2_output_decode = PatchConv(widths[1], width, patch_sizes[2])
        if self.final_norm:
            self.ln1 = nn.LayerNorm(width, eps=1e-6)

    def init_weights(self) -> None:
        """Initialise as ConvMAE does; the positions are the table of this project, rows first."""
        super().init_weights()
        if isinstance(self.init_cfg, dict) and self.init_cfg["type"] == "Pretrained":
            return
        zero_mlp_biases(self.layers)
        nn.init.xavier_uniform_(self.patch_embed3.proj.weight.data.flatten(1))
        # mmpretrain lays a table for (a, b) out with b running slower, so that rows go second.
        rows, cols = self.patch_resolution
        self.pos_embed.data.copy_(build_2d_sincos_position_embedding((cols, rows), self.embed_dims))

    def grid_of(self, height: int, width: int) -> tuple[int, int]:
        """Count the cells of an image of ``height`` x ``width`` pixels as (rows, columns).

        Raises:
            UserError: The image cannot be cut into cells.
        """
        if height % self.patch_size or width % self.patch_size:
            raise UserError(
                f"An image of {height} x {width} px cannot be cut into cells of {self.patch_size} px; "
                "change the image size or backbone.patch_sizes."
            )
        return height // self.patch_size, width // self.patch_size

    def forward(self, x: Tensor, mask: Mask | bool | None = True) -> Any:
        """Encode visible cells, or all.

        Args:
            x: (N, 3, H, W) normalised images.
            mask: True draws masks, a `Mask` is used as it is, None or False hides nothing.

        Returns:
            Masked: tokens (N, K, C) in the order of ``ids_keep``, fused and normed; mask (N, L) and ids_restore
            (N, L). Unmasked: a tuple with the (N, L, C) output of the last block. It is never fused, and normed
            only without ``fusion``: with it the norm has learnt the sum, which transfer does not have.

        Raises:
            UserError: The image cannot be cut into cells, or the mask is for another grid.
        """
        if mask is None or mask is False:
            tokens = self._encode(x, None)[-1]
            return (self.ln1(tokens) if self.final_norm and not self.fusion else tokens,)
        grid = self.grid_of(*x.shape[-2:])
        if mask is True:
            mask = self.draw_mask(len(x), x.device, grid=grid)
        assert isinstance(mask, Mask)
        if mask.mask.shape != (len(x), prod(grid)):
            raise UserError(
                f"The mask has shape {tuple(mask.mask.shape)}; the images need {(len(x), prod(grid))}."
            )
        stage1, stage2, tokens = self._encode(x, VisibleCells(mask.ids_keep, grid))
        if self.fusion:
            fused = self.stage1_output_decode(stage1) + self.stage2_output_decode(stage2)
            tokens = tokens + fused.view_as(tokens)
        return (self.ln1(tokens) if self.final_norm else tokens), mask.mask, mask.ids_restore

    def feature_maps(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Give the raw output of each stage, for dense tasks.

        Args:
            x: (N, 3, H, W) normalised images of any size that can be cut into cells.

        Returns:
            Three maps (N, C, h, w), at strides 4, 8 and 16 with the default patch sizes.
        """
        stage1, stage2, tokens = self._encode(x, None)
        stage3 = tokens.unflatten(1, self.grid_of(*x.shape[-2:]))
        first, second, third = (m.permute(0, 3, 1, 2).contiguous() for m in (stage1, stage2, stage3))
        return first, second, third

    def _encode(self, x: Tensor, visible: VisibleCells | None) -> tuple[Tensor, Tensor, Tensor]:
        """Run the stages on all cells or on visible ones: maps of stages 1 and 2, tokens (N, L or K, C)."""
        positions = resize_pos_embed(
            self.pos_embed, self.patch_resolution, self.grid_of(*x.shape[-2:]), num_extra_tokens=0
        )
        maps = x.permute(0, 2, 3, 1)
        if visible is not None:
            maps, positions = visible.collect(maps), positions[0, visible.ids_keep]
        stage1 = self.patch_embed1(maps)
        for block in self.blocks1:
            stage1 = block(stage1, visible)
        stage2 = self.patch_embed2(stage1)
        for block in self.blocks2:
            stage2 = block(stage2, visible)
        tokens = self.patch_embed4(self.patch_embed3(stage2)).view(len(x), -1, self.embed_dims) + positions
        for layer in self.layers:
            tokens = layer(tokens)
        return stage1, stage2, tokens
