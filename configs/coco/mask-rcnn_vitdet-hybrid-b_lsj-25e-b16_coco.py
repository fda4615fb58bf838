"""Mask R-CNN on ViTDet, hybrid ViT, as ConvMAE's detection code runs it (protocol P4; ConvMAE gives 53.9 / 47.6).

Batch 16 = 8 GPUs x 2. 184,375 iterations x 16 / 118,000 images = 25 epochs.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.recipes.coco_vitdet_hybrid_b import *

train_dataloader["batch_size"] = 2
auto_scale_lr.update(base_batch_size=16)
protocol = "DET-CONVMAE-VITDET"
