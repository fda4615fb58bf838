"""Regions of interest in full precision, whatever the precision of the network."""

from __future__ import annotations

import torch
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from mmdet.registry import MODELS


@MODELS.register_module()
class CMAERoIExtractor(SingleRoIExtractor):
    """mmdet's extractor on float32 features.

    mmdet casts the boxes to the type of the features: float16 moves a box at 1000 px by up to 0.5 px, bfloat16 by
    2 to 4 px, and mmcv's CUDA kernel knows no bfloat16. The heads behind compute in the precision of the run again.
    """

    def forward(
        self,
        feats: tuple[torch.Tensor, ...],
        rois: torch.Tensor,
        roi_scale_factor: float | None = None,
    ) -> torch.Tensor:
        """Cut regions out of the levels.

        Args:
            feats: (B, C, H, W) of each level.
            rois: (N, 5): image of the batch, left, top, right, bottom in pixels.
            roi_scale_factor: Enlarges the regions.

        Returns:
            (N, C, side, side), float32.
        """
        full = tuple(level.float() for level in feats)
        return super().forward(full, rois.float(), roi_scale_factor)
