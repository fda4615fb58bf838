"""MAE with ViT-B/16 at 224 px (arXiv 2111.06377), on the parts that CMAE uses."""

from cmae_mm.pretrain import CMAEPixelDecoder, CMAEViT, HiddenPixelHead, PlainMAE
from cmae_mm.pretrain.data_preprocessor import SingleViewDataPreprocessor

model = dict(
    type=PlainMAE,
    data_preprocessor=dict(type=SingleViewDataPreprocessor, size=224, channel_order="rgb"),
    # int(196 * 0.25) = 49 patches visible
    backbone=dict(type=CMAEViT, arch="b", img_size=224, patch_size=16, mask_kind="random", mask_ratio=0.75),
    neck=dict(
        type=CMAEPixelDecoder,
        num_patches=196,
        patch_size=16,
        embed_dim=768,
        decoder_embed_dim=512,
        decoder_depth=8,
        decoder_num_heads=16,
    ),
    head=dict(type=HiddenPixelHead, patch_size=16, norm_pix=True),
)
