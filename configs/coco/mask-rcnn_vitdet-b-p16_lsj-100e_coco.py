"""Mask R-CNN on ViTDet, ViT-B/16, 100 epochs of COCO with large-scale jitter (protocol P2).

Box and mask AP: MAE gives 51.6 / 45.9 in detectron2, 51.6 / 45.7 in mmdet's own project. 184,375 iterations x 64 /
118,000 images = 100 epochs.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.recipes.coco_vitdet_b_p16 import *

protocol = "DET-VITDET"
