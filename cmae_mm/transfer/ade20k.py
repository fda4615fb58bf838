"""What ADE20K transfer adds to mmseg: the UperNet backbone."""

from __future__ import annotations

from typing import Any

from mmseg.registry import MODELS

from cmae_mm.transfer.vit import DenseViT


@MODELS.register_module()
class CMAEUperNetViT(DenseViT):
    """UperNet's backbone: global attention with a class token and BEiT-style bias tables that start at zero.

    Computes what mmseg's ``MAE`` backbone does with its layer scale at one, on any image size. Unlike
    there, the position table keeps the pretraining grid and is resized in every forward.

    Args:
        **kwargs: See :class:`~cmae_mm.transfer.vit.DenseViT`.
    """

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("img_size", 512)
        kwargs.setdefault("out_indices", (3, 5, 7, 11))
        super().__init__(**{"rel_pos": "table", "cls_token": True, **kwargs})
