"""Cascade Mask R-CNN on ViT-B/16, 36 epochs of COCO at many sizes: iBOT's config as it lies in its repository.

Layer decay 0.65, steps at 27 and 33. No published number belongs to it. Batch 16 = 8 GPUs x 2.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.datasets.coco_multiscale import *
    from .._base_.models.cascade_mask_rcnn_fpn_vit_multiscale import *
    from .._base_.runtime import *
    from .._base_.schedules.coco_ibot_12e import *

default_scope = "mmdet"
default_hooks.update(dict(checkpoint=dict(save_best="coco/bbox_mAP", rule="greater")))
optim_wrapper["paramwise_cfg"].update(layer_decay_rate=0.65)
param_scheduler[1].update(milestones=[27, 33])
train_cfg["max_epochs"] = 36
protocol = "DET-C3x"
