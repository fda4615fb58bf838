"""A frozen ViT-B whose last map, normalised by the encoder's final norm, goes to a head."""

from mmseg.models import CrossEntropyLoss, EncoderDecoder, SegDataPreProcessor

from cmae_mm.transfer.frozen import FrozenViT, LinearProbeHead

model = dict(
    type=EncoderDecoder,
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
        type=FrozenViT,
        img_size=512,
        patch_size=16,
        embed_dims=768,
        depth=12,
        num_heads=12,
        pretrain_img_size=224,
        out_indices=(11,),
        cls_token=True,
        final_norm=True,
        backbone_file=None,
    ),
    decode_head=dict(
        type=LinearProbeHead,
        in_channels=768,
        in_index=0,
        num_classes=150,
        dropout_ratio=0.0,
        norm_cfg=dict(type="SyncBN", requires_grad=True),
        align_corners=False,
        loss_decode=dict(type=CrossEntropyLoss, use_sigmoid=False, loss_weight=1.0),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode="slide", crop_size=(512, 512), stride=(341, 341)),
)
