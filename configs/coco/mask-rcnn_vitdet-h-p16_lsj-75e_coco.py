"""Mask R-CNN on ViTDet, ViT-H/16, 75 epochs of COCO with large-scale jitter (protocol P2).

Box and mask AP: MAE gives 56.7 / 50.2 in detectron2. 138,281 iterations x 64 / 118,000 images = 75 epochs.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.recipes.coco_vitdet_h_p16 import *

train_cfg["max_iters"] = 184375 * 3 // 4
param_scheduler[1]["milestones"] = [163889 * 3 // 4, 177546 * 3 // 4]
protocol = "DET-VITDET"
