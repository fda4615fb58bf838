"""Mask R-CNN with a pyramid from four depths of ViT-B/16, large-scale jitter at 1024 px: all but the length of
training."""

from mmengine.config import read_base

with read_base():
    from ..datasets.coco_lsj import *
    from ..models.mask_rcnn_fpn_vit import *
    from ..runtime import *
    from ..schedules.coco_cosine_100e import *

default_scope = "mmdet"
default_hooks.update(
    dict(checkpoint=dict(by_epoch=False, interval=5000, save_best="coco/bbox_mAP", rule="greater"))
)
