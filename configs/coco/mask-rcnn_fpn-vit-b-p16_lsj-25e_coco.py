"""Mask R-CNN on ViT-B/16 before ViTDet, 25 epochs of COCO with large-scale jitter (protocol P1).

Box and mask AP of MAE: 48.1 / 43.2 by the paper's authors, 48.0 / 43.0 in the public stand-in that this follows.
46,093 iterations x 64 / 118,000 images = 25 epochs.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.recipes.coco_fpn_vit_b_p16 import *

train_cfg["max_iters"] = 184375 // 4
param_scheduler[1].update(end=184375 // 4, T_max=184375 // 4 - 461)
protocol = "DET-L21-25e"
