"""Mask R-CNN on ViTDet, hybrid ViT, 25 epochs of COCO with large-scale jitter at batch 64.

Reconstructed: no published number belongs to it. 46,093 iterations x 64 / 118,000 images = 25 epochs.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.recipes.coco_vitdet_hybrid_b import *

train_cfg["max_iters"] = 184375 // 4
param_scheduler[1]["milestones"] = [163889 // 4, 177546 // 4]
protocol = "DET-VITDET-HYBRID-25e"
