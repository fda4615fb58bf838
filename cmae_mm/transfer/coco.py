"""What COCO transfer adds to mmdet: the ViTDet backbone (the pyramid is in ``pyramid.py``)."""

from __future__ import annotations

from typing import Any

from mmdet.registry import MODELS

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
