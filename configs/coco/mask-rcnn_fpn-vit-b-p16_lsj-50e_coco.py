"""Mask R-CNN on ViT-B/16 before ViTDet, 50 epochs of COCO with large-scale jitter (protocol P1).

Box and mask AP of MAE: 50.1 / 44.6 by the paper's authors, 50.2 / 44.9 in the public stand-in that this follows.
92,187 iterations x 64 / 118,000 images = 50 epochs.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.recipes.coco_fpn_vit_b_p16 import *

train_cfg["max_iters"] = 184375 // 2
param_scheduler[1].update(end=184375 // 2, T_max=184375 // 2 - 461)
protocol = "DET-L21-50e"
