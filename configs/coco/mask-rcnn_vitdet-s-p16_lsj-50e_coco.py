"""Mask R-CNN on ViTDet, ViT-S/16, 50 epochs of COCO with large-scale jitter (protocol P2).

A shortened schedule with the fractions of the full one. No published number belongs to it. 92,187 iterations x 64 /
118,000 images = 50 epochs.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.recipes.coco_vitdet_s_p16 import *

train_cfg["max_iters"] = 184375 // 2
param_scheduler[1]["milestones"] = [163889 // 2, 177546 // 2]
protocol = "DET-VITDET-50e"
