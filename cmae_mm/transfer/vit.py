"""The plain ViT for dense tasks: windows, relative positions, any image size.

Parameter names are timm's, so a backbone file fits without renaming.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from mmengine.model import BaseModule
from timm.layers import DropPath, Mlp, PatchEmbed
from torch import nn
from torch.utils.checkpoint import checkpoint

from cmae_mm.checkpoints.resize import resize_pos_embed
from cmae_mm.errors import UserError
from cmae_mm.transfer.attention import Attention, DecomposedAttention, TableAttention

RelPos = Literal["none", "decomposed", "table"]

# What a backbone file may lack (relative positions are new in the transfer, some encoders have no class
# token) or hold in vain (a dense backbone ends without the final norm; ViTDet drops the class token).
OPTIONAL_KEYS = (
    r"\.rel_pos_[hw]$",
    r"\.relative_position_bias_table$",
    r"^cls_token$",
    r"^norm\.",
)


class Block(nn.Module):
    """One pre-norm transformer block; attention is global or inside windows.

    Args:
        attn: The attention module.
        dim: Width of a token.
        mlp_ratio: Hidden width of the MLP over ``dim``.
        drop_path: Probability of dropping a branch for a sample.
        window: Side of a window in patches; 0 is global attention.
    """

    def __init__(self, attn: Attention, dim: int, mlp_ratio: float, drop_path: float, window: int) -> None:
        super().__init__()
        self.window = window
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = attn
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        """Transform tokens (B, N, C) that lie on ``grid``."""
        normed = self.norm1(x)
        mixed = self._in_windows(normed, grid) if self.window else self.attn(normed, grid)
        x = x + self.drop_path(mixed)
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def _in_windows(self, x: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        # The padding comes after the norm and is not masked: its keys are the bias of the key layer,
        # as in detectron2, whose weights and results we want to meet.
        (rows, cols), side, (b, _, c) = grid, self.window, x.shape
        down, across = -(-rows // side), -(-cols // side)
        x = F.pad(x.view(b, rows, cols, c), (0, 0, 0, across * side - cols, 0, down * side - rows))
        x = x.view(b, down, side, across, side, c).transpose(2, 3).reshape(-1, side * side, c)
        x = self.attn(x, (side, side))
        x = x.view(b, down, across, side, side, c).transpose(2, 3).reshape(b, down * side, across * side, c)
        return x[:, :rows, :cols].reshape(b, rows * cols, c)


class DenseViT(BaseModule):
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
        rel_pos: ``decomposed`` (ViTDet), ``table`` (BEiT; needs the class token, no windows) or ``none``.
        window_size: Side of a window in patches.
        window_blocks: Blocks whose attention stays inside windows.
        out_indices: Blocks whose output is returned; negative ones count from the end.
        drop_path_rate: Probability at the last block, rising linearly from 0 at the first.
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
        rel_pos: RelPos = "none",
        window_size: int = 14,
        window_blocks: Sequence[int] = (),
        out_indices: Sequence[int] = (-1,),
        drop_path_rate: float = 0.0,
        with_cp: bool = False,
        backbone_file: str | None = None,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        if (rel_pos == "table") > cls_token or (cls_token and (window_blocks or rel_pos == "decomposed")):
            raise UserError(
                f"{type(self).__name__}: rel_pos='table' goes with cls_token=True and no windows, 'decomposed' "
                f"and windows with cls_token=False; got rel_pos={rel_pos!r}, cls_token={cls_token}"
            )
        self.depth, self.num_heads, self.with_cp = depth, num_heads, with_cp
        self.backbone_file = backbone_file
        self.out_indices = sorted(i % depth for i in out_indices)
        # Images that the patch does not divide are padded at the right and bottom.
        self.patch_embed = PatchEmbed(
            None, patch_size, embed_dim=embed_dims, flatten=False, dynamic_img_pad=True
        )
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dims)) if cls_token else None
        places = (pretrain_img_size // patch_size) ** 2
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + places, embed_dims))
        self.blocks = nn.ModuleList()
        for i in range(depth):
            window = window_size if i in window_blocks else 0
            side = window or img_size // patch_size
            self.blocks.append(
                Block(
                    _make_attention(rel_pos, embed_dims, num_heads, side),
                    embed_dims,
                    mlp_ratio,
                    drop_path_rate * i / max(depth - 1, 1),
                    window,
                )
            )
        self._draw_weights()

    def _draw_weights(self) -> None:
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        if self.cls_token is not None:
            nn.init.trunc_normal_(self.cls_token, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def init_weights(self) -> None:
        """Apply ``init_cfg``, then load ``backbone_file``.

        Raises:
            UserError: If the file does not fit this architecture.
        """
        super().init_weights()
        if self.backbone_file is None:
            return
        from cmae_mm.checkpoints import load_into

        print_log(str(load_into(self, self.backbone_file, optional=OPTIONAL_KEYS)), logger="current")

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Encode images.

        Args:
            x: (B, 3, H, W), normalised.

        Returns:
            One (B, C, ceil(H / patch), ceil(W / patch)) map for each entry of ``out_indices``, in order of depth.
        """
        x = self.patch_embed(x)
        grid = (x.shape[2], x.shape[3])
        pos = resize_pos_embed(self.pos_embed, grid)
        x = x.flatten(2).transpose(1, 2) + pos[:, 1:]
        if self.cls_token is not None:
            x = torch.cat(((self.cls_token + pos[:, :1]).expand(len(x), -1, -1), x), dim=1)
        maps = []
        for i, block in enumerate(self.blocks[: self.out_indices[-1] + 1]):
            recompute = self.with_cp and x.requires_grad
            x = checkpoint(block, x, grid, use_reentrant=False) if recompute else block(x, grid)
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


def _make_attention(rel_pos: RelPos, dim: int, heads: int, side: int) -> Attention:
    if rel_pos == "decomposed":
        return DecomposedAttention(dim, heads, (side, side))
    if rel_pos == "table":
        return TableAttention(dim, heads, (side, side))
    return Attention(dim, heads)
