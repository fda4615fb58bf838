"""Mask R-CNN on ViTDet, ViT-L/16, 100 epochs of COCO with large-scale jitter (protocol P2).

Box and mask AP: MAE gives 55.5 / 49.2 in detectron2. 184,375 iterations x 64 / 118,000 images = 100 epochs.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.recipes.coco_vitdet_l_p16 import *

protocol = "DET-VITDET"
