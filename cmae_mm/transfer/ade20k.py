"""What ADE20K transfer adds to mmseg: the UperNet backbones."""

from __future__ import annotations

from typing import Any

import torch
from mmcv.cnn import build_norm_layer
from mmseg.models import SwinTransformer
from mmseg.registry import MODELS
from timm.layers import LayerScale
from torch import nn

from cmae_mm.layers.conv_stages import CONV_EPS, ConvBlock
from cmae_mm.transfer.attention import drop_key_bias
from cmae_mm.transfer.hybrid import CMAEHybridViTDet
from cmae_mm.transfer.swin import StartsFromSwinFile
from cmae_mm.transfer.vit import DenseViT


@MODELS.register_module()
class CMAEUperNetViT(DenseViT):
    """UperNet's backbone: global attention with a class token and BEiT-style bias tables that start at zero.

    Computes what mmseg's ``MAE`` does, and with ``positions=False, key_bias=False`` what its ``BEiT`` does, on any
    image size. As there, the position table has the grid of the training image, each place is trained by itself, and
    a backbone file is resized to it when it is loaded. Other images resize it in the forward pass.

    Args:
        key_bias: Whether keys have a bias. It changes no attention weight; without it (BEiT) none is learnt.
        **kwargs: See :class:`~cmae_mm.transfer.vit.DenseViT`.
    """

    def __init__(self, key_bias: bool = True, **kwargs: Any) -> None:
        kwargs.setdefault("img_size", 512)
        kwargs.setdefault("pretrain_img_size", kwargs["img_size"])
        kwargs.setdefault("out_indices", (3, 5, 7, 11))
        super().__init__(**{"rel_pos": "table", "cls_token": True, **kwargs})
        if not key_bias:
            drop_key_bias(self.blocks)


@MODELS.register_module()
class CMAEUperNetHybrid(CMAEHybridViTDet):
    """The hybrid ViT as UperNet's backbone: four maps at strides 4, 8, 16 and 32 (ConvMAE's segmentation code).

    Every attention block is global, with a bias table that starts at zero and layer scales that start at one. The
    fourth map is a 3 x 3 convolution of stride 2 without padding, so an image has at least 48 px a side. Epsilons are
    those of pretraining; the segmentation code has 1e-5 in the norms of stage 3 too.

    Args:
        layer_scale: Initial scale of the branches of attention blocks.
        norm_cfg: Of the fourth map.
        **kwargs: See :class:`~cmae_mm.transfer.hybrid.CMAEHybridViTDet`.
    """

    def __init__(
        self, layer_scale: float = 1.0, norm_cfg: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        kwargs.setdefault("img_size", 512)
        kwargs.setdefault("pretrain_img_size", kwargs["img_size"])
        super().__init__(**{"rel_pos": "table", "window_blocks": (), "maps": "stages", **kwargs})
        width = self.patch_embed4.out_features
        for block in self.blocks3:
            block.ls1, block.ls2 = LayerScale(width, layer_scale), LayerScale(width, layer_scale)
        for module in self.modules():
            if isinstance(module, ConvBlock):
                module.norm1.eps = module.norm2.eps = CONV_EPS
        norm = build_norm_layer(norm_cfg or {"type": "SyncBN"}, width)[1]
        self.fourth = nn.Sequential(nn.Conv2d(width, width, 3, stride=2), norm, nn.GELU())

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Encode images.

        Args:
            x: (B, 3, H, W), normalised; cells divide H and W.

        Returns:
            Four maps, at strides 4, 8, 16 and 32.
        """
        first, second, third, _ = super().forward(x)
        return first, second, third, self.fourth(third)


@MODELS.register_module()
class CMAEUperNetSwin(StartsFromSwinFile, SwinTransformer):
    """mmseg's ``SwinTransformer``, started from a backbone file; norms of the stages before the last are new."""
