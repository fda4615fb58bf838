"""Cascade Mask R-CNN on ViT-S/16, 12 epochs of COCO at many sizes (iBOT gives 49.4 / 42.6).

Layer decay 0.8 and drop path 0.1. Batch 32 = 8 GPUs x 4.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.datasets.coco_multiscale import *
    from .._base_.models.cascade_mask_rcnn_fpn_vit_multiscale import *
    from .._base_.runtime import *
    from .._base_.schedules.coco_ibot_12e import *

default_scope = "mmdet"
default_hooks.update(dict(checkpoint=dict(save_best="coco/bbox_mAP", rule="greater")))
model["backbone"].update(embed_dims=384, num_heads=6, drop_path_rate=0.1)
model["neck"][0].update(embed_dim=384)
model["neck"][1].update(in_channels=[384, 384, 384, 384])
optim_wrapper["paramwise_cfg"].update(layer_decay_rate=0.8)
train_dataloader["batch_size"] = 4
auto_scale_lr.update(base_batch_size=32)
protocol = "DET-C1x"
