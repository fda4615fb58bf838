"""Mask R-CNN on ViTDet, ViT-L/16, 25 epochs of COCO with large-scale jitter (protocol P2).

A shortened schedule with the fractions of the full one. No published number belongs to it. 46,093 iterations x 64 /
118,000 images = 25 epochs.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.recipes.coco_vitdet_l_p16 import *

train_cfg["max_iters"] = 184375 // 4
param_scheduler[1]["milestones"] = [163889 // 4, 177546 // 4]
protocol = "DET-VITDET-25e"
