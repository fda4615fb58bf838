"""The libraries' Swins from a backbone file: equal to timm's stages, and nothing else fits."""

from dataclasses import replace

import cmae_mm.compat  # noqa: F401  (before torchvision, which the libraries import)

# isort: split
import pytest
import torch
from timm.models.swin_transformer import SwinTransformer

from cmae_mm.checkpoints import save_backbone
from cmae_mm.checkpoints.geometry import describe
from cmae_mm.checkpoints.resize import resize_rel_pos_table
from cmae_mm.errors import UserError
from cmae_mm.transfer.ade20k import CMAEUperNetSwin
from cmae_mm.transfer.coco import CMAEDetSwin
from cmae_mm.transfer.imagenet import ImageNetSwin

SIZES = dict(embed_dims=16, depths=(2, 1, 2, 1), num_heads=(2, 2, 4, 4), drop_path_rate=0.0)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """timm's Swin with every parameter drawn, and its backbone file."""
    torch.manual_seed(0)
    model = SwinTransformer(
        img_size=64, embed_dim=16, depths=(2, 1, 2, 1), num_heads=(2, 2, 4, 4), window_size=2, num_classes=0
    )
    for param in model.parameters():
        torch.nn.init.normal_(param, std=0.2)
    state = {k: v for k, v in model.state_dict().items() if "index" not in k and "mask" not in k}
    header = replace(describe(state, "swin"), method="simmim", image_size=64, ln_eps=1e-5)
    path = tmp_path_factory.mktemp("swin") / "swin.safetensors"
    save_backbone(path, state, header)
    return model.eval(), path


def segmentor_swin(path, window):
    return CMAEUperNetSwin(window_size=window, backbone_file=str(path), **SIZES)


def detector_swin(path, window):
    arch = {"embed_dims": 16, "depths": (2, 1, 2, 1), "num_heads": (2, 2, 4, 4)}
    return CMAEDetSwin(
        arch=arch, img_size=64, window_size=window, backbone_file=str(path), drop_path_rate=0.0
    )


BOTH = pytest.mark.parametrize("build", [segmentor_swin, detector_swin])


@BOTH
def test_last_stage_equals_timm(encoder, build):
    model, path = encoder
    swin = build(path, 2)
    swin.init_weights()
    assert len(swin.out_indices) == 4
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        nn_eval = torch.nn.Module.eval(swin) or swin  # mmseg's own returns nothing
        maps, expected = nn_eval(x), model.forward_features(x)
    torch.testing.assert_close(maps[-1].permute(0, 2, 3, 1), expected, atol=1e-4, rtol=1e-4)


@BOTH
def test_tables_of_other_windows_are_resized(encoder, build):
    model, path = encoder
    swin = build(path, 4)
    swin.init_weights()
    table = model.state_dict()["layers.0.blocks.1.attn.relative_position_bias_table"]
    own = swin.stages[0].blocks[1].attn.w_msa.relative_position_bias_table
    torch.testing.assert_close(own.data, resize_rel_pos_table(table, (2, 2), (4, 4), 0), atol=0, rtol=0)


def test_another_architecture_or_kind_is_refused(encoder, backbone_file):
    swin = CMAEUperNetSwin(window_size=2, backbone_file=str(encoder[1]), **{**SIZES, "depths": (2, 1, 1, 1)})
    with pytest.raises(UserError, match="tensors differ"):
        swin.init_weights()
    swin.backbone_file = str(backbone_file)
    with pytest.raises(UserError, match="holds a vit encoder"):
        swin.init_weights()


def test_classifier_s_swin_equals_timm(encoder):
    model, path = encoder
    arch = {"embed_dims": 16, "depths": (2, 1, 2, 1), "num_heads": (2, 2, 4, 4)}
    swin = ImageNetSwin(arch=arch, img_size=64, window_size=2, backbone_file=str(path), drop_path_rate=0.0)
    swin.init_weights()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        swin.train(False)
        maps, expected = swin(x), model.forward_features(x)
    torch.testing.assert_close(maps[-1].permute(0, 2, 3, 1), expected, atol=1e-4, rtol=1e-4)
