"""Mask R-CNN on ViTDet with ViT-S/16: width 384, 6 heads.

Nobody has published ViTDet with ViT-S. Blocks, drop path and layer decay are those of ViT-B, by analogy.
"""

from mmengine.config import read_base

with read_base():
    from .coco_vitdet_b_p16 import *

model["backbone"].update(embed_dims=384, num_heads=6)
model["neck"].update(in_channels=384)
