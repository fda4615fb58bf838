"""UperNet on ViT-B, 512 px, as BEiT and MAE transfer to ADE20K (mmseg, configs/mae)."""

from mmseg.models import (
    CrossEntropyLoss,
    FCNHead,
    Feature2Pyramid,
    SegDataPreProcessor,
)

from cmae_mm.transfer.ade20k import CMAEUperNetViT
from cmae_mm.transfer.segmentor import BatchedSlideSegmentor, SummingTTAModel
from cmae_mm.transfer.uper_head import LeanUPerHead

norm_cfg = dict(type="SyncBN", requires_grad=True)

model = dict(
    type=BatchedSlideSegmentor,
    data_preprocessor=dict(
        type=SegDataPreProcessor,
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
        size=(512, 512),
    ),
    backbone=dict(
        type=CMAEUperNetViT,
        img_size=512,
        patch_size=16,
        embed_dims=768,
        depth=12,
        num_heads=12,
        out_indices=(3, 5, 7, 11),
        layer_scale=1.0,  # learnable, as in mmseg; a file that has scales brings its own
        drop_path_rate=0.1,
        with_cp=False,
        backbone_file=None,
    ),
    neck=dict(type=Feature2Pyramid, embed_dim=768, rescales=[4, 2, 1, 0.5], norm_cfg=norm_cfg),
    decode_head=dict(
        type=LeanUPerHead,
        in_channels=[768, 768, 768, 768],
        in_index=[0, 1, 2, 3],
        pool_scales=(1, 2, 3, 6),
        channels=768,
        dropout_ratio=0.1,
        num_classes=150,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(type=CrossEntropyLoss, use_sigmoid=False, loss_weight=1.0),
    ),
    auxiliary_head=dict(
        type=FCNHead,
        in_channels=768,
        in_index=2,
        channels=256,
        num_convs=1,
        concat_input=False,
        dropout_ratio=0.1,
        num_classes=150,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(type=CrossEntropyLoss, use_sigmoid=False, loss_weight=0.4),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode="slide", crop_size=(512, 512), stride=(341, 341), window_batch=8),
)
# tools/test.py --tta puts the model into it.
tta_model = dict(type=SummingTTAModel)
