"""The simple feature pyramid of ViTDet, and its channel layer norm."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from mmdet.registry import MODELS as MMDET_MODELS
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import nn

from cmae_mm.errors import UserError


@MODELS.register_module(name="CMAELN2d")
class ChannelLayerNorm(nn.LayerNorm):
    """Layer norm over the channels of each pixel (B, C, H, W); usable as ``norm_cfg`` of mmcv's ConvModule.

    In a ``norm_cfg`` give ``eps=1e-6`` too: mmcv fills in 1e-5 where none is given.

    Half-precision input gives float32 output. RoIAlign casts its boxes to the type of the features, and
    bfloat16 would round a box at 700 px by 2 to 4 px.

    Args:
        num_channels: C.
        eps: Added to the variance.
    """

    _abbr_ = "ln"

    def __init__(self, num_channels: int, eps: float = 1e-6) -> None:
        super().__init__(num_channels, eps)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise (B, C, H, W)."""
        if x.dtype in (torch.float16, torch.bfloat16):
            x = x.float()
        x = F.layer_norm(x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


@MMDET_MODELS.register_module(name="CMAESimpleFeaturePyramid")
class SimpleFeaturePyramid(BaseModule):
    """Make a pyramid from the last map of a plain ViT (ViTDet, arXiv 2203.16527, section 3).

    Each scale has its own branch: up- or downsampling, then 1x1 and 3x3 convolutions, each with a
    :class:`ChannelLayerNorm` and without bias or activation. A last level takes every second pixel.
    The initialisation is PyTorch's, as in detectron2.

    Args:
        in_channels: Channels of the map.
        out_channels: Channels of every level.
        scales: Sizes of the levels relative to the map, from 4, 2, 1 and 0.5.
        extra_level: Whether to add the level that halves the last one.
        init_cfg: mmengine initialisation.

    Raises:
        UserError: If a scale is none of those.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        scales: tuple[float, ...] = (4.0, 2.0, 1.0, 0.5),
        extra_level: bool = True,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        self.extra_level = extra_level
        self.branches = nn.ModuleList(_branch(in_channels, out_channels, scale) for scale in scales)

    def forward(self, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """Build the levels.

        Args:
            inputs: Maps of the backbone; only the last one, (B, C, H, W), is used.

        Returns:
            One (B, out_channels, scale*H, scale*W) map for each scale, then the extra level.
        """
        # The norm leaves channels-last strides, and mmcv's RoIAlign reads memory without looking at strides.
        levels = [branch(inputs[-1]).contiguous() for branch in self.branches]
        if self.extra_level:
            levels.append(F.max_pool2d(levels[-1], kernel_size=1, stride=2))
        return tuple(levels)


def _branch(dim: int, out: int, scale: float) -> nn.Sequential:
    if scale == 4.0:
        layers: list[nn.Module] = [
            nn.ConvTranspose2d(dim, dim // 2, 2, stride=2),
            ChannelLayerNorm(dim // 2),
            nn.GELU(),
            nn.ConvTranspose2d(dim // 2, dim // 4, 2, stride=2),
        ]
        dim //= 4
    elif scale == 2.0:
        layers = [nn.ConvTranspose2d(dim, dim // 2, 2, stride=2)]
        dim //= 2
    elif scale == 1.0:
        layers = []
    elif scale == 0.5:
        layers = [nn.MaxPool2d(2)]
    else:
        raise UserError(f"SimpleFeaturePyramid: scale {scale} is not one of 4, 2, 1, 0.5; correct `scales`")
    return nn.Sequential(
        *layers,
        nn.Conv2d(dim, out, 1, bias=False),
        ChannelLayerNorm(out),
        nn.Conv2d(out, out, 3, padding=1, bias=False),
        ChannelLayerNorm(out),
    )
