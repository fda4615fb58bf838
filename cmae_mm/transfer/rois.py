"""Boxes and regions of interest in full precision, whatever the precision of the network."""

from __future__ import annotations

import torch
from mmdet.models import ConvFCBBoxHead, FCNMaskHead, RPNHead, SingleRoIExtractor
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


@MODELS.register_module()
class CMAERPNHead(RPNHead):
    """mmdet's region proposals with float32 predictions.

    mmdet makes anchors in the type of the predictions, so half precision would round every anchor and proposal.
    """

    def forward_single(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Predict on one level.

        Args:
            x: (B, C, H, W).

        Returns:
            Scores (B, anchors, H, W) and box offsets (B, 4 * anchors, H, W), float32.
        """
        scores, offsets = super().forward_single(x)
        return scores.float(), offsets.float()


@MODELS.register_module()
class CMAEBBoxHead(ConvFCBBoxHead):
    """mmdet's box head with float32 predictions, so that boxes are decoded and compared in full precision."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Predict for regions.

        Args:
            x: (N, C, side, side).

        Returns:
            Scores (N, classes + 1) and box offsets (N, 4 * classes), float32.
        """
        scores, offsets = super().forward(x)
        return scores.float(), offsets.float()


@MODELS.register_module()
class CMAEMaskHead(FCNMaskHead):
    """mmdet's mask head with float32 predictions: masks are pasted and compared in full precision."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Predict (N, classes, 2 * side, 2 * side) logits, float32, from regions (N, C, side, side)."""
        return super().forward(x).float()
