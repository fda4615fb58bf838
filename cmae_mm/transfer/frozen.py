"""Frozen encoders under a linear head or a memory of labelled patches: the parts that learn little or nothing."""

from __future__ import annotations

from typing import Any

import torch
from mmcv.cnn import build_norm_layer
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.registry import MODELS
from torch import Tensor, nn

from cmae_mm.checkpoints import BackboneHeader, load_backbone
from cmae_mm.errors import UserError
from cmae_mm.transfer.vit import DenseViT


@MODELS.register_module()
class FrozenViT(DenseViT):
    """An encoder as pretraining left it: no gradient, no drop path, always in evaluation mode.

    Unlike the backbones that are fine-tuned it has no relative positions that start at zero, and ends with the
    encoder's own norm of all tokens. Without ``backbone_file`` its weights are random: the baseline.

    Args:
        final_norm: Normalise each returned map with the final norm of the file. Where the file has none (the log
            says ``norm`` is missing) this is a plain layer norm.
        **kwargs: See :class:`~cmae_mm.transfer.vit.DenseViT`; ``cls_token`` is on by default.
    """

    def __init__(self, final_norm: bool = True, **kwargs: Any) -> None:
        super().__init__(**{"cls_token": True, **kwargs})
        width = self.patch_embed.proj.out_channels
        self.norm = nn.LayerNorm(width, eps=1e-6) if final_norm else nn.Identity()
        self.requires_grad_(False)
        self.train(False)

    @staticmethod
    def parts_of(header: BackboneHeader) -> dict[str, Any]:
        """Returns: Options that an encoder needs beside its sizes; ``--backbone`` sets them."""
        found: dict[str, Any] = {"positions": False} if header.position == "none" else {}
        found |= {"rel_pos": "table"} if header.relative_position else {}
        return found | ({"layer_scale": 1.0} if header.layer_scale else {})

    def init_weights(self) -> None:
        """See the base class.

        Raises:
            UserError: If the file does not fit, or the encoder's class token would be missing or random.
        """
        if self.backbone_file is not None:
            token = load_backbone(self.backbone_file)[1].class_token
            if token != (self.cls_token is not None):
                raise UserError(
                    f"{self.backbone_file}: the encoder was pretrained {'with' if token else 'without'} a class token; "
                    f"set model.backbone.cls_token={token}"
                )
        super().init_weights()

    def train(self, mode: bool = True) -> FrozenViT:
        """Stay in evaluation mode, whatever is asked for."""
        super().train(False)
        return self

    @torch.no_grad()
    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Encode images (B, 3, H, W); see the base class."""
        maps = super().forward(x)
        return tuple(self.norm(m.movedim(1, -1)).movedim(-1, 1) for m in maps)


@MODELS.register_module()
class LinearProbeHead(BaseDecodeHead):
    """Batch norm and a 1 x 1 convolution on patch features; mmseg upsamples the logits bilinearly.

    Args:
        norm_cfg: Of the batch norm; SyncBN in the recipes.
        **kwargs: See mmseg; ``channels`` is that of the input, and ``input_transform="resize_concat"`` takes several
            blocks.
    """

    def __init__(self, norm_cfg: dict[str, Any], **kwargs: Any) -> None:
        width = kwargs["in_channels"]
        kwargs.setdefault("channels", width if isinstance(width, int) else sum(width))
        super().__init__(norm_cfg=norm_cfg, **{"dropout_ratio": 0.0, **kwargs})
        self.norm = build_norm_layer(norm_cfg, self.channels)[1]

    def forward(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """Classify each patch.

        Args:
            inputs: Maps (B, C, h, w) of the backbone.

        Returns:
            Logits (B, K, h, w).
        """
        return self.cls_seg(self.norm(self._transform_inputs(inputs)))
