import pytest
import torch

import cmae_mm.compat  # noqa: F401  (before torchvision)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def build_tiny_cmae(**kwargs):
    """CMAE with the architecture of the golden file."""
    from cmae_mm.pretrain import CMAE

    decoder = dict(num_patches=64, patch_size=4, embed_dim=48, decoder_embed_dim=32, decoder_num_heads=4)
    mlp = dict(
        type="NonLinearNeck",
        hid_channels=96,
        out_channels=32,
        with_bias=True,
        with_last_bn=False,
        with_avg_pool=False,
        norm_cfg=dict(type="BN1d", eps=1e-6),
    )
    arch = dict(embed_dims=48, num_layers=2, num_heads=4, feedforward_channels=192)
    return CMAE(
        backbone=dict(type="CMAEViT", arch=arch, img_size=32, patch_size=4),
        pixel_decoder=dict(type="CMAEPixelDecoder", decoder_depth=2, **decoder),
        feature_decoder=dict(type="CMAEFeatureDecoder", decoder_depth=1, **decoder),
        projector=dict(in_channels=48, **mlp),
        head=dict(type="CMAEPretrainHead", predictor=dict(in_channels=32, **mlp), patch_size=4),
        data_preprocessor=dict(type="CMAEDataPreprocessor", size=32, max_shift=4),
        **kwargs,
    )


@pytest.fixture(scope="session")
def tiny_cmae():
    return build_tiny_cmae
