"""The ViTDet backbone and pyramid against tensors recorded from detectron2, and UperNet's against mmseg."""

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cmae_mm.transfer import attention
from cmae_mm.transfer.ade20k import CMAEUperNetViT
from cmae_mm.transfer.coco import CMAEViTDet
from cmae_mm.transfer.pyramid import SimpleFeaturePyramid

GOLDEN = Path(__file__).parents[1] / "golden"
FILES = ["vitdet_tiny", "vitdet_tiny_nonsquare"]
FIRST_CONV = {0: 4, 1: 1, 2: 0, 3: 1}  # layers of a branch in front of its first normed convolution


def _pyramid_key(key):
    """Translate detectron2's ``simfp_2.4.norm.weight`` to ours, where a norm is a layer of its own."""
    level, index, rest = re.match(r"simfp_(\d)\.(\d)\.(.*)", key).groups()
    branch, index = int(level) - 2, int(index)
    first, is_norm = FIRST_CONV[branch], rest.startswith("norm.")
    if index >= first:
        index = first + 2 * (index - first) + is_norm
    return f"branches.{branch}.{index}.{rest.removeprefix('norm.')}"


def _build(golden, with_cp=False):
    vit = CMAEViTDet(
        img_size=160,
        embed_dims=48,
        depth=4,
        num_heads=4,
        window_size=4,
        window_blocks=(0, 2),
        pretrain_img_size=64,
        with_cp=with_cp,
    )
    pyramid = SimpleFeaturePyramid(48, 32)
    state = {k[6:]: v for k, v in golden.items() if k.startswith("state.")}
    vit.load_state_dict({k[4:]: v for k, v in state.items() if k.startswith("net.")})
    pyramid.load_state_dict({_pyramid_key(k): v for k, v in state.items() if k.startswith("simfp")})
    return vit, pyramid


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(("with_cp", "fused"), [(False, False), (False, True), (True, True)])
def test_features_levels_and_every_gradient_match_detectron2(name, with_cp, fused, monkeypatch):
    if fused:  # the kernel that GPUs and large images take
        monkeypatch.setattr(attention, "CPU_WRITE_OUT", 0)
    golden = load_file(GOLDEN / f"{name}.safetensors")
    vit, pyramid = _build(golden, with_cp)
    maps = vit(golden["in.x"])
    levels = pyramid(maps)
    torch.testing.assert_close(maps[0], golden["out.last_feat"], atol=1e-5, rtol=0)
    assert len(levels) == 5
    for i, level in enumerate(levels):
        torch.testing.assert_close(level, golden[f"out.p{i + 2}"], atol=1e-5, rtol=0)

    loss = sum(level.square().mean() for level in levels)
    torch.testing.assert_close(loss, golden["loss"], atol=1e-5, rtol=0)
    loss.backward()
    own = {f"net.{k}": p for k, p in vit.named_parameters()}
    branches = dict(pyramid.named_parameters())
    recorded = {k[5:]: v for k, v in golden.items() if k.startswith("grad.")}
    assert len(recorded) == len(own) + len(branches)
    for key, value in recorded.items():
        param = own[key] if key in own else branches[_pyramid_key(key)]
        torch.testing.assert_close(param.grad, value, atol=1e-5, rtol=0, msg=lambda m, k=key: f"{k}: {m}")


def _to_mmseg(key):
    pairs = [
        (r"^patch_embed\.proj", "patch_embed.projection"),
        (r"^blocks\.", "layers."),
        (r"\.norm([12])\.", r".ln\1."),
        (r"\.mlp\.fc1\.", ".ffn.layers.0.0."),
        (r"\.mlp\.fc2\.", ".ffn.layers.1."),
    ]
    for pattern, new in pairs:
        key = re.sub(pattern, new, key)
    return key


@pytest.mark.parametrize("pretrain_side", [64, 32])  # 32: the position table has to be resized
def test_upernet_backbone_equals_mmseg_mae(pretrain_side):
    from mmseg.models.backbones import MAE

    torch.manual_seed(0)
    ours = CMAEUperNetViT(
        img_size=64,
        patch_size=8,
        embed_dims=48,
        depth=5,
        num_heads=4,
        pretrain_img_size=pretrain_side,
        out_indices=(1, 2, 3, 4),
        drop_path_rate=0.0,
    )
    for param in ours.parameters():  # nothing may stay at zero or one
        torch.nn.init.normal_(param, std=0.3)
    theirs = MAE(
        img_size=(64, 64),
        patch_size=8,
        embed_dims=48,
        num_layers=5,
        num_heads=4,
        norm_cfg={"type": "LN", "eps": 1e-6},
        out_indices=[1, 2, 3, 4],
        init_values=1.0,
    )
    state = theirs.resize_abs_pos_embed({_to_mmseg(k): v for k, v in ours.state_dict().items()})
    left = theirs.load_state_dict(state, strict=False)
    assert not left.unexpected_keys
    assert all(re.search(r"gamma_|relative_position_index", k) for k in left.missing_keys)

    x = torch.randn(2, 3, 64, 64)
    for a, b in zip(ours(x), theirs(x), strict=True):
        assert a.shape == (2, 48, 8, 8)
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
