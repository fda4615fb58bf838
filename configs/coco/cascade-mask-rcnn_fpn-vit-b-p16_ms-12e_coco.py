"""Cascade Mask R-CNN on ViT-B/16, 12 epochs of COCO at many sizes: the protocol of the DINO and iBOT rows.

Box and mask AP: iBOT 51.2 / 44.2, DINO 50.1 / 43.4, BEiT 50.1 / 43.5, supervised 49.8 / 43.2. Batch 16 = 8 GPUs x 2.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.datasets.coco_multiscale import *
    from .._base_.models.cascade_mask_rcnn_fpn_vit_multiscale import *
    from .._base_.runtime import *
    from .._base_.schedules.coco_ibot_12e import *

default_scope = "mmdet"
default_hooks.update(dict(checkpoint=dict(save_best="coco/bbox_mAP", rule="greater")))
protocol = "DET-C1x"
