"""Mask R-CNN on a small ViTDet with the embedded detection set: minutes on two CPU cores.

The full recipe at a small size; the patch is half as large, so the pyramid needs no branch for scale 4.
400 iterations x 8 / 384 images with objects = 8 epochs.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.datasets.mini_coco import *
    from .._base_.models.mask_rcnn_vitdet import *
    from .._base_.runtime import *

from mmengine.optim import CosineAnnealingLR, LinearLR, OptimWrapper
from mmengine.runner import IterBasedTrainLoop
from torch.optim import AdamW

from cmae_mm.transfer.layer_decay import LayerDecayConstructor

default_scope = "mmdet"
model.update(
    dict(
        data_preprocessor=dict(pad_size_divisor=96),
        backbone=dict(
            img_size=96,
            patch_size=8,
            embed_dims=128,
            depth=6,
            num_heads=4,
            pretrain_img_size=64,
            window_size=4,
            window_blocks=(0, 2, 4),
            drop_path_rate=0.0,
        ),
        # strides 4, 8, 16 and, from the extra level, 32
        neck=dict(in_channels=128, out_channels=64, scales=(2.0, 1.0, 0.5)),
        rpn_head=dict(
            in_channels=64,
            feat_channels=64,
            num_convs=1,
            anchor_generator=dict(scales=[4], strides=[4, 8, 16, 32]),  # boxes of 16 to 128 px
        ),
        roi_head=dict(
            bbox_roi_extractor=dict(
                out_channels=64,
                featmap_strides=[4, 8, 16],
                finest_scale=28,
                roi_layer=dict(sampling_ratio=1),
            ),
            bbox_head=dict(
                num_shared_convs=0,
                num_shared_fcs=1,
                in_channels=64,
                conv_out_channels=64,
                fc_out_channels=256,
                num_classes=6,
            ),
            mask_roi_extractor=dict(
                out_channels=64,
                featmap_strides=[4, 8, 16],
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
    optimizer=dict(type=AdamW, lr=1.5e-3, betas=(0.9, 0.999), weight_decay=0.05),
    constructor=LayerDecayConstructor,
    paramwise_cfg=dict(layer_decay_rate=0.9, no_decay=(r"^backbone\.blocks\.\d+\.norm", r"pos_embed")),
    clip_grad=dict(max_norm=5.0),
)
param_scheduler = [
    dict(type=LinearLR, start_factor=0.01, by_epoch=False, begin=0, end=30),
    dict(type=CosineAnnealingLR, by_epoch=False, begin=30, end=400, T_max=370),
]
train_cfg = dict(type=IterBasedTrainLoop, max_iters=400, val_interval=400)
default_hooks.update(dict(logger=dict(interval=25), checkpoint=dict(by_epoch=False, interval=200)))
log_processor = dict(by_epoch=False)
