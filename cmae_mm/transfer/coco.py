"""What COCO transfer adds to mmdet: backbones (the pyramid is in ``pyramid.py``)."""

from __future__ import annotations

from typing import Any

from mmdet.registry import MODELS
from mmpretrain.models import SwinTransformer

from cmae_mm.transfer.swin import StartsFromSwinFile
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


@MODELS.register_module()
class CMAEDetSwin(StartsFromSwinFile, SwinTransformer):
    """mmpretrain's ``SwinTransformer``, which knows its layers' depths, with all four maps for a pyramid.

    Args:
        **kwargs: ``backbone_file``, and see mmpretrain.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"out_indices": (0, 1, 2, 3), "pad_small_map": True, **kwargs})
