"""Mask R-CNN on ViT-B/16 with global attention, 12 epochs of COCO at many sizes (protocol P3).

Box and mask AP: CAE 50.0 / 44.0 (50.3 / 44.2 in its repository), whose authors list MAE with 48.4 / 42.6. Batch 32 =
16 GPUs x 2.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.datasets.coco_multiscale import *
    from .._base_.models.mask_rcnn_fpn_vit_multiscale import *
    from .._base_.runtime import *
    from .._base_.schedules.coco_12e import *

default_scope = "mmdet"
default_hooks.update(dict(checkpoint=dict(save_best="coco/bbox_mAP", rule="greater")))
protocol = "DET-1x"
