"""Mask R-CNN on a small ViTDet with the embedded detection set: minutes on two CPU cores.

The full recipe at a small size. The pyramid has no branch for scale 4: no object is smaller than a cell of 8 px.
150 iterations x 8 / 384 images with objects = 3 epochs.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.datasets.mini_coco import *
    from .._base_.models.mask_rcnn_vitdet import *
    from .._base_.runtime import *

from mmdet.models import ConvFCBBoxHead
from mmengine.optim import CosineAnnealingLR, LinearLR, OptimWrapper
from mmengine.runner import IterBasedTrainLoop
from torch.optim import AdamW

from cmae_mm.transfer.layer_decay import LayerDecayConstructor

default_scope = "mmdet"
model.update(
    dict(
        data_preprocessor=dict(pad_size_divisor=128),
        backbone=dict(
            img_size=128,
            patch_size=16,
            embed_dims=128,
            depth=6,
            num_heads=4,
            pretrain_img_size=96,
            window_size=4,
            window_blocks=(0, 2, 4),
            drop_path_rate=0.0,
        ),
        # strides 8, 16, 32 and, from the extra level, 64
        neck=dict(in_channels=128, out_channels=64, scales=(2.0, 1.0, 0.5)),
        rpn_head=dict(
            in_channels=64,
            feat_channels=64,
            num_convs=1,
            anchor_generator=dict(scales=[3], strides=[8, 16, 32, 64]),  # boxes of 24 to 192 px
        ),
        roi_head=dict(
            bbox_roi_extractor=dict(
                out_channels=64,
                featmap_strides=[8, 16, 32],
                finest_scale=28,
                roi_layer=dict(sampling_ratio=1),
            ),
            bbox_head=dict(
                type=ConvFCBBoxHead,
                num_shared_convs=0,
                num_shared_fcs=1,
                in_channels=64,
                conv_out_channels=64,
                fc_out_channels=256,
                num_classes=6,
            ),
            mask_roi_extractor=dict(
                out_channels=64,
                featmap_strides=[8, 16, 32],
                finest_scale=28,
                roi_layer=dict(output_size=7, sampling_ratio=1),
            ),
            mask_head=dict(num_convs=1, in_channels=64, conv_out_channels=64, num_classes=6),
        ),
        train_cfg=dict(
            rpn=dict(sampler=dict(num=64)),
            rpn_proposal=dict(nms_pre=200, max_per_img=100),
            rcnn=dict(sampler=dict(num=32), mask_size=14),
        ),
        test_cfg=dict(rpn=dict(nms_pre=200, max_per_img=100), rcnn=dict(max_per_img=50)),
    )
)
optim_wrapper = dict(
    type=OptimWrapper,
    optimizer=dict(type=AdamW, lr=1e-3, betas=(0.9, 0.999), weight_decay=0.05),
    constructor=LayerDecayConstructor,
    paramwise_cfg=dict(layer_decay_rate=0.75, no_decay=(r"^backbone\.blocks\.\d+\.norm", r"pos_embed")),
    clip_grad=dict(max_norm=5.0),
)
param_scheduler = [
    dict(type=LinearLR, start_factor=0.01, by_epoch=False, begin=0, end=15),
    dict(type=CosineAnnealingLR, by_epoch=False, begin=15, end=150, T_max=135),
]
train_cfg = dict(type=IterBasedTrainLoop, max_iters=150, val_interval=150)
default_hooks.update(dict(logger=dict(interval=20), checkpoint=dict(by_epoch=False, interval=150)))
log_processor = dict(by_epoch=False)
