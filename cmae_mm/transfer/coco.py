"""What COCO transfer adds to mmdet: the ViTDet backbone (the pyramid is in ``pyramid.py``)."""

from __future__ import annotations

from typing import Any

from mmdet.evaluation import FasterCocoMetric
from mmdet.registry import METRICS, MODELS

from cmae_mm.transfer.vit import DenseViT


@MODELS.register_module()
class CMAEViTDet(DenseViT):
    """ViTDet's backbone: windowed and global blocks, decomposed relative positions, no class token.

    The defaults are ViT-B at 1024 px with detectron2's windows (global blocks 2, 5, 8, 11). Returns the
    last block's map only.

    Args:
        **kwargs: See :class:`~cmae_mm.transfer.vit.DenseViT`.
    """

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("img_size", 1024)
        kwargs.setdefault("window_blocks", (0, 1, 3, 4, 6, 7, 9, 10))
        super().__init__(**{"rel_pos": "decomposed", "cls_token": False, **kwargs})


_SUFFIXES = ("", "_50", "_75", "_s", "_m", "_l")


@METRICS.register_module()
class CMAECocoMetric(FasterCocoMetric):
    """COCO AP that is 0 where a model finds nothing at all.

    mmdet then returns no metric, and the run would miss in tables although its AP is known.
    """

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        """See mmdet; every AP of ``metric`` is present.

        Args:
            results: Ground truth and prediction of each image.

        Returns:
            Metric names to values in [0, 1].
        """
        found = super().compute_metrics(results)
        for kind in self.metrics:
            for suffix in _SUFFIXES if kind in ("bbox", "segm") else ():
                found.setdefault(f"{kind}_mAP{suffix}", 0.0)
        return found
