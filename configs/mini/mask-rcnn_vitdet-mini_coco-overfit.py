"""Can the whole chain learn photographs by heart? A small ViTDet on 32 images of COCO, 256 px, from random weights.

Trains and tests on the same images, the first 32 unless `--cfg-options train_dataloader.dataset.indices=[0,1,...]` and
the same for `val_dataloader` and `test_dataloader` choose others. No augmentation, no drop path, no weight decay;
images without objects stay in as negatives. 2000 iterations x 2 / 32 images = 125 epochs.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.datasets.coco_lsj import *
    from .._base_.models.mask_rcnn_vitdet import *
    from .._base_.runtime import *

from mmdet.models import ConvFCBBoxHead
from mmengine.optim import LinearLR, MultiStepLR, OptimWrapper
from mmengine.runner import IterBasedTrainLoop
from torch.optim import AdamW

from cmae_mm.transfer.layer_decay import LayerDecayConstructor

default_scope = "mmdet"
first = list(range(32))
train_dataloader.update(
    dict(
        batch_size=2,
        num_workers=0,
        persistent_workers=False,
        dataset=dict(
            indices=first,
            filter_cfg=dict(filter_empty_gt=False, min_size=0),
            pipeline=[
                dict(type=LoadImageFromFile),
                dict(type=LoadPolygons),
                dict(type=Resize, scale=(256, 256), keep_ratio=True, backend="pillow"),
                dict(type=FilterAnnotations, min_gt_bbox_wh=(1e-5, 1e-5), keep_empty=False),
                dict(type=PackDetInputs),
            ],
        ),
    )
)
val_dataloader.update(
    dict(
        num_workers=0,
        persistent_workers=False,
        dataset=dict(
            indices=first,
            ann_file="annotations/instances_train2017.json",
            data_prefix=dict(img="train2017/"),
            pipeline=[
                dict(type=LoadImageFromFile),
                dict(type=Resize, scale=(256, 256), keep_ratio=True, backend="pillow"),
                dict(
                    type=PackDetInputs,
                    meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor"),
                ),
            ],
        ),
    )
)
val_evaluator.update(dict(ann_file="data/coco/annotations/instances_train2017.json"))
test_dataloader = val_dataloader
test_evaluator = val_evaluator
model.update(
    dict(
        data_preprocessor=dict(pad_size_divisor=256),
        backbone=dict(
            img_size=256,
            embed_dims=192,
            depth=6,
            num_heads=6,
            pretrain_img_size=224,
            window_size=8,
            window_blocks=(0, 1, 3, 4),
            drop_path_rate=0.0,
        ),
        neck=dict(in_channels=192, out_channels=64),
        rpn_head=dict(
            in_channels=64,
            feat_channels=64,
            num_convs=1,
            anchor_generator=dict(scales=[4]),  # boxes of 16 to 256 px
        ),
        roi_head=dict(
            bbox_roi_extractor=dict(out_channels=64, finest_scale=28, roi_layer=dict(sampling_ratio=2)),
            bbox_head=dict(
                type=ConvFCBBoxHead,
                num_shared_convs=0,
                num_shared_fcs=2,
                in_channels=64,
                conv_out_channels=64,
                fc_out_channels=512,
            ),
            mask_roi_extractor=dict(out_channels=64, finest_scale=28, roi_layer=dict(sampling_ratio=2)),
            mask_head=dict(num_convs=1, in_channels=64, conv_out_channels=64),
        ),
        train_cfg=dict(
            rpn=dict(sampler=dict(num=128)),
            rpn_proposal=dict(nms_pre=200, max_per_img=100),
            rcnn=dict(sampler=dict(num=64)),
        ),
        test_cfg=dict(rpn=dict(nms_pre=200, max_per_img=100)),
    )
)
optim_wrapper = dict(
    type=OptimWrapper,
    optimizer=dict(type=AdamW, lr=4e-4, betas=(0.9, 0.999), weight_decay=0.0),
    constructor=LayerDecayConstructor,
    paramwise_cfg=dict(layer_decay_rate=1.0),
    clip_grad=dict(max_norm=5.0),
)
param_scheduler = [
    dict(type=LinearLR, start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type=MultiStepLR, by_epoch=False, milestones=[1500, 1800], gamma=0.2),
]
train_cfg = dict(type=IterBasedTrainLoop, max_iters=2000, val_interval=500)
default_hooks.update(dict(logger=dict(interval=50), checkpoint=dict(by_epoch=False, interval=100)))
log_processor = dict(by_epoch=False)
