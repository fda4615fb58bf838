"""The hybrid ViT for dense tasks: two convolutional stages in front of a shorter ViT (ConvMAE, arXiv 2205.03892).

Parameter names are those of ConvMAE's detection code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from mmdet.registry import MODELS
from torch import nn

from cmae_mm.checkpoints.resize import resize_pos_embed
from cmae_mm.layers.conv_stages import ConvBlock, PatchEmbed
from cmae_mm.transfer.blocks import BlockStack, RelPos, rising
from cmae_mm.transfer.start import StartsFromFile

Three = tuple[int, int, int]


@MODELS.register_module()
class CMAEHybridViTDet(StartsFromFile):
    """The hybrid encoder without mask, fusion and final norm, for images of any size that cells divide.

    The defaults are ConvMAE-Base as its ViTDet code has it: windows of 14, global blocks 1, 4, 7, 10. There, unlike
    in pretraining, the norms of convolutional blocks have epsilon 1e-6; those of the patch embeddings keep 1e-5.

    Args:
        img_size: Side of the training image in pixels: sets the size of global relative-position tables.
        patch_sizes: Kernel and stride of the three patch embeddings; their product is the side of a cell.
        widths: Channels of the stages.
        depths: Blocks of the stages.
        num_heads: Heads of the last stage.
        mlp_ratio: Hidden width of the MLPs over the width.
        pretrain_img_size: Side of the pretraining image: sets the size of the position table.
        rel_pos: ``decomposed`` (ViTDet) or ``table`` (BEiT) or ``none``.
        window_size: Side of a window in cells.
        window_blocks: Blocks of the last stage whose attention stays inside windows.
        drop_path_rate: Probability at the last block, rising linearly from 0 at the first, convolutional ones included.
        share_tables: Let all windowed blocks have one table, and all global ones another.
        train_positions: Whether the position table is trained.
        maps: ``last`` returns the last stage; ``stages``, for an FPN, all three and a half-size maximum of the last.
        with_cp: Recompute attention blocks in the backward pass to save memory.
        backbone_file: Backbone file that ``init_weights`` loads; None leaves the random weights.
        init_cfg: mmengine initialisation.
    """

    def __init__(
        self,
        img_size: int = 1024,
        patch_sizes: Three = (4, 2, 2),
        widths: Three = (256, 384, 768),
        depths: Three = (2, 2, 11),
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        pretrain_img_size: int = 224,
        rel_pos: RelPos = "decomposed",
        window_size: int = 14,
        window_blocks: Sequence[int] = (0, 2, 3, 5, 6, 8, 9),
        drop_path_rate: float = 0.0,
        share_tables: bool = False,
        train_positions: bool = True,
        maps: Literal["last", "stages"] = "last",
        with_cp: bool = False,
        backbone_file: str | None = None,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        self.depth, self.num_heads, self.maps = depths[2], num_heads, maps
        self.backbone_file = backbone_file
        cell = patch_sizes[0] * patch_sizes[1] * patch_sizes[2]
        inputs = (3, *widths[:2])
        for i, (before, width, side) in enumerate(zip(inputs, widths, patch_sizes, strict=True)):
            self.add_module(f"patch_embed{i + 1}", PatchEmbed(before, width, side))
        self.patch_embed4 = nn.Linear(widths[2], widths[2])
        table = torch.zeros(1, (pretrain_img_size // cell) ** 2, widths[2])
        self.pos_embed = nn.Parameter(table, requires_grad=train_positions)
        drops = rising(drop_path_rate, sum(depths))
        for i, (width, depth) in enumerate(zip(widths[:2], depths[:2], strict=True)):
            first = sum(depths[:i])
            blocks = [ConvBlock(width, mlp_ratio, 1e-6, drop) for drop in drops[first : first + depth]]
            self.add_module(f"blocks{i + 1}", nn.ModuleList(blocks))
        self.blocks3 = BlockStack(
            widths[2],
            num_heads,
            mlp_ratio,
            drops[depths[0] + depths[1] :],
            (img_size // cell, img_size // cell),
            rel_pos=rel_pos,
            window_size=window_size,
            window_blocks=window_blocks,
            share_tables=share_tables,
            with_cp=with_cp,
        )
        self.draw_weights(self.pos_embed)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Encode images.

        Args:
            x: (B, 3, H, W), normalised; cells divide H and W.

        Returns:
            One (B, C, H / 16, W / 16) map, or with ``maps="stages"`` four, at strides 4, 8, 16 and 32.
        """
        stages = []
        maps = x.permute(0, 2, 3, 1)
        for embed, blocks in ((self.patch_embed1, self.blocks1), (self.patch_embed2, self.blocks2)):
            maps = embed(maps)
            for block in blocks:
                maps = block(maps)
            stages.append(maps.permute(0, 3, 1, 2))
        maps = self.patch_embed4(self.patch_embed3(maps))
        grid = (maps.shape[1], maps.shape[2])
        tokens = maps.flatten(1, 2) + resize_pos_embed(self.pos_embed, grid, prefix_tokens=0)
        for i in range(self.depth):
            tokens = self.blocks3.run(i, tokens, grid)
        last = tokens.transpose(1, 2).unflatten(2, grid)
        return (last,) if self.maps == "last" else (*stages, last, F.max_pool2d(last, 2))

    def get_layer_depth(self, param_name: str, prefix: str = "backbone.") -> tuple[int, int]:
        """Return the place of a parameter in the network, for layer-wise learning rates.

        Args:
            param_name: Name inside the whole model.
            prefix: What this backbone's parameters start with there.

        Returns:
            The layer id and the number of ids: 0 is the embeddings and the convolutional stages, i + 1 attention
            block i, the last everything else.
        """
        last = self.depth + 1
        name = param_name.removeprefix(prefix)
        if not param_name.startswith(prefix):
            return last, last + 1
        if name.startswith(("patch_embed", "pos_embed", "blocks1.", "blocks2.")):
            return 0, last + 1
        if name.startswith("blocks3."):
            return int(name.split(".")[1]) + 1, last + 1
        return last, last + 1
