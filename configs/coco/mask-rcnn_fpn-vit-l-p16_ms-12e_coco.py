"""Mask R-CNN on ViT-L/16 with global attention, 12 epochs of COCO at many sizes (protocol P3).

Box and mask AP: CAE 54.5 / 47.5. Learning rate, layer decay, layer scale and maps are those of CAE's ViT-L config.
Batch 32 = 16 GPUs x 2.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.datasets.coco_multiscale import *
    from .._base_.models.mask_rcnn_fpn_vit_multiscale import *
    from .._base_.runtime import *
    from .._base_.schedules.coco_12e import *

default_scope = "mmdet"
default_hooks.update(dict(checkpoint=dict(save_best="coco/bbox_mAP", rule="greater")))
model["backbone"].update(
    embed_dims=1024, depth=24, num_heads=16, out_indices=(7, 11, 15, 23), layer_scale=1e-5
)
model["neck"][0].update(embed_dim=1024)
model["neck"][1].update(in_channels=[1024, 1024, 1024, 1024])
optim_wrapper["optimizer"].update(lr=2e-4)
optim_wrapper["paramwise_cfg"].update(layer_decay_rate=0.85)
protocol = "DET-1x"
