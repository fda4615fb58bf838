"""The plain ViT for dense tasks: windows, relative positions, any image size.

Parameter names are timm's, so a backbone file fits without renaming.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import PatchEmbed
from torch import nn

from cmae_mm.checkpoints.resize import resize_pos_embed
from cmae_mm.errors import UserError
from cmae_mm.transfer.blocks import BlockStack, RelPos, rising
from cmae_mm.transfer.start import StartsFromFile


class DenseViT(StartsFromFile):
    """Plain ViT that turns an image into one map for each chosen block, all at stride ``patch_size``.

    The position table stays at the pretraining grid and is resized (bicubic) in every forward, so any
    image size and aspect works and gradients reach the original table. No final norm, as in ViTDet and
    in mmseg's MAE.

    Args:
        img_size: Side of the training image in pixels: sets the size of global relative-position tables.
        patch_size: Side of a patch in pixels.
        embed_dims: Width.
        depth: Number of blocks.
        num_heads: Heads.
        mlp_ratio: Hidden width of the MLP over the width.
        pretrain_img_size: Side of the pretraining image: sets the size of the position table.
        cls_token: Whether a class token takes part. The position table has its row in any case.
        positions: Whether there is a position table; BEiT has relative positions only.
        rel_pos: ``decomposed`` (ViTDet), ``table`` (BEiT) or ``none``.
        window_size: Side of a window in patches.
        window_blocks: Blocks whose attention stays inside windows.
        out_indices: Blocks whose output is returned; negative ones count from the end.
        drop_path_rate: Probability at the last block, rising linearly from 0 at the first.
        layer_scale: Initial scale of the branches of each block; None has no scales. A backbone file without
            scales sets them to one.
        share_tables: Let all windowed blocks have one table, and all global ones another.
        train_positions: Whether the position table is trained.
        with_cp: Recompute blocks in the backward pass to save memory.
        backbone_file: Backbone file that ``init_weights`` loads; None leaves the random weights.
        init_cfg: mmengine initialisation.

    Raises:
        UserError: If options contradict each other.
    """

    def __init__(
        self,
        img_size: int = 224,
        patch_size: int = 16,
        embed_dims: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        pretrain_img_size: int = 224,
        cls_token: bool = False,
        positions: bool = True,
        rel_pos: RelPos = "none",
        window_size: int = 14,
        window_blocks: Sequence[int] = (),
        out_indices: Sequence[int] = (-1,),
        drop_path_rate: float = 0.0,
        layer_scale: float | None = None,
        share_tables: bool = False,
        train_positions: bool = True,
        with_cp: bool = False,
        backbone_file: str | None = None,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        if cls_token and (window_blocks or rel_pos == "decomposed"):
            raise UserError(
                f"{type(self).__name__}: windows and rel_pos='decomposed' go with cls_token=False; "
                f"got rel_pos={rel_pos!r}, window_blocks={window_blocks}, cls_token={cls_token}"
            )
        self.depth, self.num_heads = depth, num_heads
        self.backbone_file = backbone_file
        self.out_indices = sorted(i % depth for i in out_indices)
        # Images that the patch does not divide are padded at the right and bottom.
        self.patch_embed = PatchEmbed(
            None, patch_size, embed_dim=embed_dims, flatten=False, dynamic_img_pad=True
        )
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dims)) if cls_token else None
        places = (pretrain_img_size // patch_size) ** 2
        table = nn.Parameter(torch.zeros(1, 1 + places, embed_dims), requires_grad=train_positions)
        self.pos_embed = table if positions else None
        side = img_size // patch_size
        self.blocks = BlockStack(
            embed_dims,
            num_heads,
            mlp_ratio,
            rising(drop_path_rate, depth),
            (side, side),
            rel_pos=rel_pos,
            class_token=cls_token,
            window_size=window_size,
            window_blocks=window_blocks,
            layer_scale=layer_scale,
            share_tables=share_tables,
            with_cp=with_cp,
        )
        self.draw_weights(self.pos_embed, self.cls_token)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Encode images.

        Args:
            x: (B, 3, H, W), normalised.

        Returns:
            One (B, C, ceil(H / patch), ceil(W / patch)) map for each entry of ``out_indices``, in order of depth.
        """
        x = self.patch_embed(x)
        grid = (x.shape[2], x.shape[3])
        x = x.flatten(2).transpose(1, 2)
        if self.cls_token is not None:
            x = torch.cat((self.cls_token.expand(len(x), -1, -1), x), dim=1)
        if self.pos_embed is not None:
            pos = resize_pos_embed(self.pos_embed, grid)
            x = x + (pos[:, 1:] if self.cls_token is None else pos)
        maps = []
        for i in range(self.out_indices[-1] + 1):
            x = self.blocks.run(i, x, grid)
            if i in self.out_indices:
                places = x if self.cls_token is None else x[:, 1:]
                maps.append(places.transpose(1, 2).reshape(len(x), -1, *grid))
        return tuple(maps)

    def get_layer_depth(self, param_name: str, prefix: str = "backbone.") -> tuple[int, int]:
        """Return the place of a parameter in the network, for layer-wise learning rates.

        Args:
            param_name: Name inside the whole model.
            prefix: What this backbone's parameters start with there.

        Returns:
            The layer id and the number of ids: 0 is the embedding, i + 1 block i, the last everything else.
        """
        last = self.depth + 1
        if not param_name.startswith(prefix):
            return last, last + 1
        name = param_name[len(prefix) :]
        if name.startswith(("patch_embed.", "pos_embed", "cls_token")):
            return 0, last + 1
        if name.startswith("blocks."):
            return int(name.split(".")[1]) + 1, last + 1
        return last, last + 1
