"""Strict loading into a model: what matched, what is new, what was left, and refusals that change nothing."""

import re
from functools import partial

import cmae_mm.compat  # noqa: F401  (before torchvision, which timm imports)

# isort: split
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from cmae_mm.checkpoints import load_backbone, load_into, save_backbone
from cmae_mm.checkpoints.resize import resize_pos_embed
from cmae_mm.errors import UserError
from cmae_mm.transfer.imagenet import ImageNetViT


def timm_vit(**change):
    arch = dict(img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=3, mlp_ratio=2.0, num_classes=0)
    model = VisionTransformer(**{**arch, **change})
    model.num_heads = change.get("num_heads", 3)
    return model


def snapshot(model):
    return {k: v.clone() for k, v in model.state_dict().items()}


def test_every_tensor_lands(backbone_file):
    model = timm_vit()
    report = load_into(model, backbone_file)
    state, _ = load_backbone(backbone_file)
    assert report.matched == sorted(state)
    assert (report.initialised, report.unused, report.notes) == ([], [], [])
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert str(report) == f"backbone file {backbone_file}: 30 tensors loaded"


def test_allowed_differences_are_reported(backbone_file):
    model = timm_vit(num_classes=5)
    model.norm = torch.nn.Identity()
    report = load_into(model, backbone_file, optional=(r"^norm\.", r"^head\."))
    assert report.unused == ["norm.bias", "norm.weight"]
    assert report.initialised == ["head.bias", "head.weight"]
    assert len(report.matched) == 28
    assert "2 newly initialised (head.bias, ...); 2 unused (norm.bias, norm.weight)" in str(report)


@pytest.mark.parametrize(
    ("change", "file_has", "model_has"),
    [
        ({"embed_dim": 96}, "width 48", "width 96"),
        ({"depth": 3}, "depth 2", "depth 3"),
        ({"depth": 1}, "depth 2", "depth 1"),
        ({"num_heads": 6}, "heads 3", "heads 6"),
        ({"patch_size": 4}, "patch 8", "patch 4"),
        ({"embed_dim": 60, "num_heads": 5}, "width 48, heads 3", "width 60, heads 5"),
    ],
)
def test_another_architecture_is_refused(backbone_file, change, file_has, model_has):
    model = timm_vit(**change)
    before = snapshot(model)
    with pytest.raises(UserError) as caught:
        load_into(model, backbone_file)
    text = str(caught.value)
    assert text.startswith(str(backbone_file))
    assert f"the file holds a ViT with {file_has}, the config builds one with {model_has};" in text
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"mlp_ratio": 4.0}, r"6 shapes differ \(blocks.0.mlp.fc1.bias: file \(96,\), model \(192,\)"),
        ({"num_classes": 5}, r"2 keys have no counterpart \['head.bias', 'head.weight'\]"),
        ({"qkv_bias": False}, r"2 keys have no counterpart \['blocks.0.attn.qkv.bias'"),
    ],
)
def test_what_does_not_fit_changes_nothing(backbone_file, change, what):
    model = timm_vit(**change)
    before = snapshot(model)
    with pytest.raises(UserError, match=what):
        load_into(model, backbone_file)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_not_a_vit(backbone_file):
    with pytest.raises(UserError, match="not a plain ViT"):
        load_into(torch.nn.Linear(2, 2), backbone_file)


def test_larger_image_and_bgr_are_noted(make_encoder, tmp_path):
    state, header = make_encoder(channel_order="bgr")
    save_backbone(tmp_path / "bgr.safetensors", state, header)
    model = timm_vit(img_size=48)
    report = load_into(model, tmp_path / "bgr.safetensors")
    assert report.notes == ["stem folded from bgr input to rgb", "positions resized from 4x4 to 6x6"]
    assert torch.equal(model.pos_embed.data, resize_pos_embed(state["pos_embed"], (6, 6)))
    flipped = state["patch_embed.proj.weight"].flip(1)
    folded = model.patch_embed.proj.weight.data
    assert not torch.allclose(folded, flipped)  # the statistics belong to the channels, not to the places
    std = torch.tensor([58.395, 57.12, 57.375])
    torch.testing.assert_close(folded, flipped * (std / std.flip(0)).view(1, 3, 1, 1))


@pytest.mark.parametrize("file_has_token", [True, False])
def test_class_row_of_the_position_table(make_encoder, tmp_path, file_has_token):
    state, header = make_encoder(class_token=file_has_token)
    save_backbone(tmp_path / "x.safetensors", state, header)
    model = timm_vit(class_token=not file_has_token, global_pool="avg", fc_norm=False)
    load_into(model, tmp_path / "x.safetensors", optional=("cls_token",))
    places = state["pos_embed"][:, int(file_has_token) :]
    assert torch.equal(model.pos_embed.data[:, int(not file_has_token) :], places)
    if not file_has_token:
        assert not model.pos_embed.data[:, 0].any()


def test_mmpretrain_vit_computes_what_timm_does(backbone_file):
    arch = dict(embed_dims=48, num_layers=2, num_heads=3, feedforward_channels=96)
    ours = ImageNetViT(arch=arch, img_size=32, patch_size=8, out_type="raw", backbone_file=str(backbone_file))
    ours.init_weights()
    theirs = timm_vit(norm_layer=partial(torch.nn.LayerNorm, eps=1e-6))
    load_into(theirs, backbone_file)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = theirs.eval().forward_features(images)
        ours.eval()  # returns None in mmpretrain
        torch.testing.assert_close(ours(images)[-1], expected, atol=1e-5, rtol=0)


def test_mmpretrain_vit_of_another_depth_is_refused(backbone_file):
    arch = dict(embed_dims=48, num_layers=3, num_heads=3, feedforward_channels=96)
    vit = ImageNetViT(arch=arch, img_size=32, patch_size=8, backbone_file=str(backbone_file))
    with pytest.raises(UserError, match=re.escape("with depth 2, the config builds one with depth 3")):
        vit.init_weights()
