"""CMAE with ViT-B/16 at 224 px, as the released code trains it.

The fields in which paper and released code differ are marked; cmae_mm.pretrain.PRESETS holds both values.
"""

from mmpretrain.models import NonLinearNeck

from cmae_mm.engine.momentum_hook import MomentumUpdateHook
from cmae_mm.pretrain import (
    CMAE,
    CMAEDataPreprocessor,
    CMAEFeatureDecoder,
    CMAEPixelDecoder,
    CMAEPretrainHead,
    CMAEViT,
)

model = dict(
    type=CMAE,
    momentum=0.996,  # constant
    grad_cache=False,  # True: accumulated batches are contrasted as one
    target_norm=False,  # paper: True
    data_preprocessor=dict(
        type=CMAEDataPreprocessor,
        size=224,
        max_shift=31,  # inclusive; paper: 30
        flip="before",  # one flip of the master; paper: after
        channel_order="bgr",  # paper: rgb
        color_on="target",
        color_jitter=dict(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, prob=0.8),
        gray_prob=0.2,
        blur_prob=0.5,
        blur_sigma=(0.1, 2.0),
    ),
    backbone=dict(
        type=CMAEViT,
        arch="b",
        img_size=224,
        patch_size=16,
        mask_kind="block",  # paper: random
        # 49 cells of 2 x 2 patches: 17 kept, 68 patches visible, 128 hidden; paper: 0.75
        mask_ratio=0.65,
        mask_block=2,
    ),
    pixel_decoder=dict(
        type=CMAEPixelDecoder,
        num_patches=196,
        patch_size=16,
        embed_dim=768,
        decoder_embed_dim=512,
        decoder_depth=8,
        decoder_num_heads=16,
    ),
    feature_decoder=dict(
        type=CMAEFeatureDecoder,
        num_patches=196,
        embed_dim=768,
        decoder_embed_dim=512,
        decoder_depth=2,
        decoder_num_heads=16,
    ),
    projector=dict(
        type=NonLinearNeck,
        in_channels=768,
        hid_channels=1536,
        out_channels=256,
        with_bias=True,
        with_last_bn=False,
        with_avg_pool=False,
        norm_cfg=dict(type="SyncBN", eps=1e-6),
    ),
    head=dict(
        type=CMAEPretrainHead,
        patch_size=16,
        norm_pix=True,
        temperature=0.07,
        contrastive_scale="2tau",  # 2 * 0.07 * InfoNCE; paper: 1
        predictor=dict(
            type=NonLinearNeck,
            in_channels=256,
            hid_channels=1536,
            out_channels=256,
            with_bias=True,
            with_last_bn=False,
            with_avg_pool=False,
            norm_cfg=dict(type="SyncBN", eps=1e-6),
        ),
    ),
)
custom_hooks = [dict(type=MomentumUpdateHook)]
