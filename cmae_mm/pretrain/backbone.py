"""The encoder of CMAE: a ViT that sees only the visible patches."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import torch
from mmpretrain.models import MAEViT, VisionTransformer
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from cmae_mm.pretrain.blocks import as_blocks
from cmae_mm.pretrain.masking import DrawsMasks, Mask, take

# The official initialisation of encoder and decoders; the patch projection and the MLP necks differ.
XAVIER_INIT = (
    {"type": "Xavier", "layer": "Linear", "distribution": "uniform"},
    {"type": "Constant", "layer": "LayerNorm", "val": 1.0, "bias": 0.0},
)


@MODELS.register_module()
class CMAEViT(DrawsMasks, MAEViT):
    """mmpretrain's MAE encoder with block masks, injectable masks and an optional final norm.

    State-dict keys are those of `MAEViT`, and of the official CMAE. Attention is
    ``scaled_dot_product_attention``, as everywhere in mmpretrain. Also serves as the encoder of MAE.

    Args:
        mask_kind: ``"block"`` hides squares of patches (released code), ``"random"`` single patches (paper).
        mask_ratio: Share of hidden cells.
        mask_block: Side of a block in patches.
        **kwargs: Arguments of `MAEViT`: ``arch``, ``img_size``, ``patch_size``, ``final_norm`` ...
    """

    def __init__(
        self,
        *,
        mask_kind: Literal["block", "random"] = "block",
        mask_ratio: float = 0.65,
        mask_block: int = 2,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("init_cfg", [dict(rule) for rule in XAVIER_INIT])
        super().__init__(mask_ratio=mask_ratio, **kwargs)
        as_blocks(self.layers)
        self.set_masking(mask_kind, mask_ratio, mask_block)

    def init_weights(self) -> None:
        """Initialise as the official code does: xavier, zero biases, sin-cos positions."""
        super().init_weights()
        zero_mlp_biases(self.layers)

    def forward(self, x: Tensor, mask: Mask | bool | None = True) -> Any:
        """Encode visible patches, or all.

        Args:
            x: (N, 3, H, W) normalised images.
            mask: True draws masks, a `Mask` is used as it is, None or False hides nothing.

        Returns:
            Masked: tokens (N, 1 + K, C) with the class token first, mask (N, L) and ids_restore (N, L), as
            `MAEViT` returns them. Unmasked: what `VisionTransformer` returns, a tuple with one
            (N, 1 + L, C) tensor by default; nothing is gathered.
        """
        if mask is None or mask is False:
            return VisionTransformer.forward(self, x)
        if mask is True:
            mask = self.draw_mask(len(x), x.device)
        assert isinstance(mask, Mask)
        visible = take(self.patch_embed(x)[0] + self.pos_embed[:, 1:], mask.ids_keep)
        cls_token = (self.cls_token + self.pos_embed[:, :1]).expand(len(x), -1, -1)
        tokens = torch.cat([cls_token, visible], dim=1)
        for layer in self.layers:
            tokens = layer(tokens)
        if self.final_norm:
            tokens = self.norm1(tokens)
        return tokens, mask.mask, mask.ids_restore


def zero_mlp_biases(layers: Iterable[Any]) -> None:
    """Set the MLP biases of mmpretrain's blocks, which it draws with a spread of 1e-6, to zero."""
    for layer in layers:
        for module in layer.ffn.modules():
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
