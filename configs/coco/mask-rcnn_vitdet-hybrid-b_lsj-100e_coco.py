"""Mask R-CNN on ViTDet, hybrid ViT, 100 epochs of COCO with large-scale jitter at batch 64.

Reconstructed: no published number belongs to it. 184,375 iterations x 64 / 118,000 images = 100 epochs.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.recipes.coco_vitdet_hybrid_b import *

protocol = "DET-VITDET-HYBRID-100e"
