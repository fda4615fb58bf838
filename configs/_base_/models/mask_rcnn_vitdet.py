"""Mask R-CNN on ViTDet's ViT-B, 1024 px, as detectron2 builds it (projects/ViTDet, mask_rcnn_vitdet.py)."""

from mmcv.ops import RoIAlign
from mmdet.models import (
    CrossEntropyLoss,
    DetDataPreprocessor,
    L1Loss,
    MaskRCNN,
    StandardRoIHead,
)
from mmdet.models.task_modules import AnchorGenerator, DeltaXYWHBBoxCoder, MaxIoUAssigner, RandomSampler

from cmae_mm.transfer.coco import CMAEViTDet
from cmae_mm.transfer.pyramid import ChannelLayerNorm, SimpleFeaturePyramid
from cmae_mm.transfer.rois import CMAEBBoxHead, CMAEMaskHead, CMAERoIExtractor, CMAERPNHead

# mmcv would fill in 1e-5
norm_cfg = dict(type=ChannelLayerNorm, eps=1e-6)

model = dict(
    type=MaskRCNN,
    data_preprocessor=dict(
        type=DetDataPreprocessor,
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_mask=True,
        # Every image fits into 1024 px, so this pads all to 1024 x 1024 in training and test, with the mean
        # colour because it comes after normalisation. Other aspects would stretch the position table.
        pad_size_divisor=1024,
    ),
    backbone=dict(
        type=CMAEViTDet,
        img_size=1024,
        patch_size=16,
        embed_dims=768,
        depth=12,
        num_heads=12,
        pretrain_img_size=224,
        window_size=14,
        window_blocks=(0, 1, 3, 4, 6, 7, 9, 10),
        drop_path_rate=0.1,
        with_cp=False,
        backbone_file=None,
    ),
    neck=dict(type=SimpleFeaturePyramid, in_channels=768, out_channels=256, scales=(4.0, 2.0, 1.0, 0.5)),
    rpn_head=dict(
        type=CMAERPNHead,
        in_channels=256,
        feat_channels=256,
        num_convs=2,
        # boxes of 32 to 512 px: scale x stride
        anchor_generator=dict(
            type=AnchorGenerator, scales=[8], ratios=[0.5, 1.0, 2.0], strides=[4, 8, 16, 32, 64]
        ),
        bbox_coder=dict(type=DeltaXYWHBBoxCoder),
        loss_cls=dict(type=CrossEntropyLoss, use_sigmoid=True, loss_weight=1.0),
        loss_bbox=dict(type=L1Loss, loss_weight=1.0),
    ),
    roi_head=dict(
        type=StandardRoIHead,
        bbox_roi_extractor=dict(
            type=CMAERoIExtractor,
            roi_layer=dict(type=RoIAlign, output_size=7, sampling_ratio=0),
            out_channels=256,
            featmap_strides=[4, 8, 16, 32],
        ),
        bbox_head=dict(
            type=CMAEBBoxHead,
            num_shared_convs=4,
            num_shared_fcs=1,
            in_channels=256,
            conv_out_channels=256,
            fc_out_channels=1024,
            roi_feat_size=7,
            num_classes=80,
            norm_cfg=norm_cfg,
            bbox_coder=dict(type=DeltaXYWHBBoxCoder, target_stds=[0.1, 0.1, 0.2, 0.2]),
            reg_class_agnostic=False,
            loss_cls=dict(type=CrossEntropyLoss, use_sigmoid=False, loss_weight=1.0),
            loss_bbox=dict(type=L1Loss, loss_weight=1.0),
        ),
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
            norm_cfg=norm_cfg,
            loss_mask=dict(type=CrossEntropyLoss, use_mask=True, loss_weight=1.0),
        ),
    ),
    train_cfg=dict(
        rpn=dict(
            assigner=dict(
                type=MaxIoUAssigner, pos_iou_thr=0.7, neg_iou_thr=0.3, min_pos_iou=0.3, match_low_quality=True
            ),
            sampler=dict(
                type=RandomSampler, num=256, pos_fraction=0.5, neg_pos_ub=-1, add_gt_as_proposals=False
            ),
            allowed_border=-1,
            pos_weight=-1,
            debug=False,
        ),
        rpn_proposal=dict(
            nms_pre=2000, max_per_img=1000, nms=dict(type="nms", iou_threshold=0.7), min_bbox_size=0
        ),
        rcnn=dict(
            # low-quality matches are off as in detectron2; mmdet's own base has them on
            assigner=dict(
                type=MaxIoUAssigner,
                pos_iou_thr=0.5,
                neg_iou_thr=0.5,
                min_pos_iou=0.5,
                match_low_quality=False,
            ),
            sampler=dict(
                type=RandomSampler, num=512, pos_fraction=0.25, neg_pos_ub=-1, add_gt_as_proposals=True
            ),
            mask_size=28,
            pos_weight=-1,
            debug=False,
        ),
    ),
    test_cfg=dict(
        rpn=dict(nms_pre=1000, max_per_img=1000, nms=dict(type="nms", iou_threshold=0.7), min_bbox_size=0),
        rcnn=dict(
            score_thr=0.05, nms=dict(type="nms", iou_threshold=0.5), max_per_img=100, mask_thr_binary=0.5
        ),
    ),
)
