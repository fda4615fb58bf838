"""Cascade Mask R-CNN with a feature pyramid from four depths of a plain ViT-B, as iBOT has it.

From github bytedance/ibot, evaluation/object_detection (cascade_mask_rcnn_vit_fpn.py and the ViT-B config). Like the
model of CAE (`mask_rcnn_fpn_vit_multiscale.py`), with three box heads, without layer scale, and with positions that
are trained.
"""

from mmengine.config import read_base

with read_base():
    from .mask_rcnn_fpn_vit_multiscale import *

from mmdet.models import (
    CascadeRCNN,
    CascadeRoIHead,
    CrossEntropyLoss,
    SmoothL1Loss,
)
from mmdet.models.task_modules import DeltaXYWHBBoxCoder, MaxIoUAssigner, RandomSampler

from cmae_mm.transfer.rois import CMAEBBoxHead, CMAEMaskHead, CMAERoIExtractor
from mmcv.ops import RoIAlign

model["type"] = CascadeRCNN
model["backbone"].update(layer_scale=None, train_positions=True)
model["rpn_head"].update(loss_bbox=dict(type=SmoothL1Loss, beta=1.0 / 9.0, loss_weight=1.0))
# Each stage starts from better boxes than the one before.
target_stds = [[0.1, 0.1, 0.2, 0.2], [0.05, 0.05, 0.1, 0.1], [0.033, 0.033, 0.067, 0.067]]
overlaps = [0.5, 0.6, 0.7]
model["roi_head"] = dict(
    type=CascadeRoIHead,
    num_stages=3,
    stage_loss_weights=[1, 0.5, 0.25],
    bbox_roi_extractor=dict(
        type=CMAERoIExtractor,
        roi_layer=dict(type=RoIAlign, output_size=7, sampling_ratio=0),
        out_channels=256,
        featmap_strides=[4, 8, 16, 32],
    ),
    bbox_head=[
        dict(
            type=CMAEBBoxHead,
            num_shared_convs=4,
            num_shared_fcs=1,
            in_channels=256,
            conv_out_channels=256,
            fc_out_channels=1024,
            roi_feat_size=7,
            num_classes=80,
            bbox_coder=dict(type=DeltaXYWHBBoxCoder, target_stds=stds),
            reg_class_agnostic=False,
            reg_decoded_bbox=True,
            norm_cfg=dict(type="SyncBN", requires_grad=True),
            loss_cls=dict(type=CrossEntropyLoss, use_sigmoid=False, loss_weight=1.0),
            loss_bbox=dict(type=GIoULoss, loss_weight=10.0),
        )
        for stds in target_stds
    ],
    mask_roi_extractor=dict(
        type=CMAERoIExtractor,
        roi_layer=dict(type=RoIAlign, output_size=14, sampling_ratio=0),
        out_channels=256,
        featmap_strides=[4, 8, 16, 32],
    ),
    mask_head=dict(
        type=CMAEMaskHead,
        num_convs=4,
        in_channels=256,
        conv_out_channels=256,
        num_classes=80,
        loss_mask=dict(type=CrossEntropyLoss, use_mask=True, loss_weight=1.0),
    ),
)
model["train_cfg"]["rpn"].update(allowed_border=0)
model["train_cfg"]["rcnn"] = [
    dict(
        assigner=dict(
            type=MaxIoUAssigner,
            pos_iou_thr=overlap,
            neg_iou_thr=overlap,
            min_pos_iou=overlap,
            match_low_quality=False,
        ),
        sampler=dict(type=RandomSampler, num=512, pos_fraction=0.25, neg_pos_ub=-1, add_gt_as_proposals=True),
        mask_size=28,
        pos_weight=-1,
        debug=False,
    )
    for overlap in overlaps
]
