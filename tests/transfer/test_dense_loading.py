"""A backbone file reaches the dense backbones: every tensor lands, features equal timm's, misfits are refused."""

import cmae_mm.compat  # noqa: F401  (before torchvision, which timm imports)

# isort: split
import pytest
import timm
import torch

from cmae_mm.checkpoints import BackboneHeader, save_backbone
from cmae_mm.errors import UserError
from cmae_mm.transfer.ade20k import CMAEUperNetViT
from cmae_mm.transfer.coco import CMAEViTDet

TINY = {"img_size": 64, "patch_size": 8, "embed_dims": 48, "num_heads": 3, "pretrain_img_size": 32}


@pytest.fixture
def encoder(tmp_path):
    torch.manual_seed(0)
    model = timm.models.VisionTransformer(
        img_size=32, patch_size=8, embed_dim=48, depth=3, num_heads=3, num_classes=0, global_pool=""
    ).eval()
    for param in model.parameters():  # random biases and norms too: a forgotten tensor must show
        torch.nn.init.normal_(param, std=0.1)
    header = BackboneHeader(method="test", width=48, depth=3, heads=3, hidden=192, patch=8, image_size=32)
    save_backbone(tmp_path / "encoder.safetensors", model.state_dict(), header)
    return model, tmp_path / "encoder.safetensors"


def test_upernet_backbone_computes_what_timm_does(encoder):
    model, path = encoder
    vit = CMAEUperNetViT(depth=3, out_indices=(0, 1, 2), backbone_file=str(path), **TINY)
    vit.init_weights()
    x = torch.randn(2, 3, 32, 32)
    expected = model.get_intermediate_layers(x, n=3, reshape=True, norm=False)
    for ours, theirs in zip(vit(x), expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_vitdet_takes_every_tensor_but_class_token_and_final_norm(encoder):
    model, path = encoder
    vit = CMAEViTDet(depth=3, window_blocks=(0,), window_size=4, backbone_file=str(path), **TINY)
    vit.init_weights()
    own, file = vit.state_dict(), model.state_dict()
    assert {k for k in file if k not in own} == {"cls_token", "norm.weight", "norm.bias"}
    assert all("rel_pos" in k for k in own if k not in file)
    for key in own.keys() & file.keys():
        torch.testing.assert_close(own[key], file[key], atol=0, rtol=0)


def test_another_depth_is_refused(encoder):
    vit = CMAEViTDet(depth=2, window_blocks=(), backbone_file=str(encoder[1]), **TINY)
    with pytest.raises(UserError, match="depth"):
        vit.init_weights()
