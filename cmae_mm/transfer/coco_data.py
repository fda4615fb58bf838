"""Annotations of COCO for training with masks as polygons."""

from __future__ import annotations

from typing import Any

import numpy as np
from mmdet.datasets.transforms import LoadAnnotations
from mmdet.registry import TRANSFORMS
from numpy.typing import NDArray

from cmae_mm.data.annotate import polygons


@TRANSFORMS.register_module()
class LoadPolygons(LoadAnnotations):
    """Boxes, labels and outlines; no bitmap is made until a box needs its mask target.

    As in detectron2, crowd regions and instances without a valid outline (three points) are left out of
    training. Objects given as run lengths are turned into polygons that cover the same pixels; mmdet would
    leave them out, detectron2 would stop. Coordinates become floats: mmdet scales integers to integers.

    Args:
        **kwargs: See ``mmdet.datasets.transforms.LoadAnnotations``.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(with_bbox=True, with_mask=True, poly2mask=False, **kwargs)

    def _process_masks(self, results: dict[str, Any]) -> list[list[NDArray[np.float64]]]:
        height, width = results["ori_shape"]
        for instance in results.get("instances", []):
            mask = instance.setdefault("mask", [])
            if isinstance(mask, dict) and not instance["ignore_flag"]:
                instance["mask"] = polygons(self._poly2mask(mask, height, width).astype(bool))
        outlines = super()._process_masks(results)
        return [[polygon.astype(np.float64) for polygon in outline] for outline in outlines]
