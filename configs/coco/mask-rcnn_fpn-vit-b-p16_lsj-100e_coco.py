"""Mask R-CNN on ViT-B/16 before ViTDet, 100 epochs of COCO with large-scale jitter (protocol P1).

Box and mask AP of MAE: 50.3 / 44.9 by the paper's authors, 50.4 / 44.9 in the public stand-in that this follows.
184,375 iterations x 64 / 118,000 images = 100 epochs.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.recipes.coco_fpn_vit_b_p16 import *

protocol = "DET-L21"
