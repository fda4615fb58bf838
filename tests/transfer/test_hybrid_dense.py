"""The hybrid backbone for dense tasks against tensors recorded from ConvMAE, and against the encoder of pretraining."""

from pathlib import Path
from types import SimpleNamespace

import cmae_mm.compat  # noqa: F401  (before torchvision)

# isort: split
import pytest
import torch
from safetensors.torch import load_file

from cmae_mm.checkpoints import BackboneHeader, save_backbone
from cmae_mm.checkpoints.sources.convmae import canonical_state, hybrid_name
from cmae_mm.layers.conv_stages import ConvBlock
from cmae_mm.pretrain.describe import describe_encoder
from cmae_mm.pretrain.hybrid import CMAEHybridViT
from cmae_mm.transfer.hybrid import CMAEHybridViTDet
from cmae_mm.transfer.imagenet import ImageNetHybrid

GOLDEN = Path(__file__).parents[1] / "golden" / "convmae_tiny.safetensors"
SIZES = dict(widths=(16, 24, 48), depths=(2, 1, 3), num_heads=4)
PLAIN = dict(rel_pos="none", window_blocks=(), maps="stages", pretrain_img_size=64, img_size=64)


def with_pretraining_eps(vit):
    """ConvMAE's detection code has 1e-6 in its convolutional blocks, its pretraining code 1e-5."""
    for block in vit.modules():
        if isinstance(block, ConvBlock):
            assert block.norm1.eps == block.norm2.eps == 1e-6
            block.norm1.eps = block.norm2.eps = 1e-5
    return vit


def test_all_maps_match_convmae():
    golden = load_file(GOLDEN)
    vit = with_pretraining_eps(CMAEHybridViTDet(**SIZES, **PLAIN)).eval()
    state = {key[6:]: value for key, value in golden.items() if key.startswith("state.")}
    own = vit.state_dict()
    assert own.keys() <= state.keys()  # the names are those of the original
    vit.load_state_dict({key: state[key] for key in own})
    with torch.no_grad():
        stage1, stage2, stage3, half = vit(golden["in.img"])
    tokens = stage3.flatten(2).transpose(1, 2)
    torch.testing.assert_close(tokens, golden["out.tokens_unmasked"].view_as(tokens), atol=5e-6, rtol=0)
    for name, maps in (("out.stage1_unmasked", stage1), ("out.stage2_unmasked", stage2)):
        recorded = golden[name]
        recorded = recorded if recorded.shape == maps.shape else recorded.permute(0, 3, 1, 2)
        torch.testing.assert_close(maps, recorded, atol=5e-6, rtol=0)
    torch.testing.assert_close(half, torch.nn.functional.max_pool2d(stage3, 2))


@pytest.mark.parametrize("size", [(64, 64), (96, 64)])
def test_equals_the_encoder_of_pretraining_at_any_size(size):
    torch.manual_seed(0)
    arch = dict(widths=(16, 24, 48), depths=(2, 1, 3), heads=4, mlp_ratios=(4, 4, 4))
    encoder = CMAEHybridViT(arch, img_size=64)
    encoder.init_weights()
    vit = with_pretraining_eps(CMAEHybridViTDet(**SIZES, **PLAIN))
    state = encoder.state_dict()
    vit.load_state_dict({key: state[hybrid_name(key)] for key in vit.state_dict()})
    images = torch.randn(2, 3, *size)
    for ours, theirs in zip(vit(images)[:3], encoder.feature_maps(images), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_norms_positions_and_drop_path_are_those_of_the_detection_code():
    vit = CMAEHybridViTDet(drop_path_rate=0.14, **SIZES)
    assert {m.eps for n, m in vit.named_modules() if isinstance(m, torch.nn.LayerNorm) and "embed" in n} == {
        1e-5
    }
    blocks = [m for n, m in vit.named_modules() if isinstance(m, torch.nn.LayerNorm) and "blocks" in n]
    assert {m.eps for m in blocks} == {1e-6}
    drops = [
        getattr(b.drop_path, "drop_prob", 0.0)
        for part in (vit.blocks1, vit.blocks2, vit.blocks3)
        for b in part
    ]
    assert drops == pytest.approx([0.14 * i / 5 for i in range(6)])  # over all six blocks
    assert vit.pos_embed.shape[1] == 14 * 14
    assert not CMAEHybridViTDet(train_positions=False, **SIZES).pos_embed.requires_grad


def test_recomputing_blocks_changes_no_gradient():
    torch.manual_seed(0)
    images, grads = torch.randn(1, 3, 96, 64), []
    first = CMAEHybridViTDet(window_size=4, window_blocks=(0, 1), img_size=96, **SIZES)
    for with_cp in (False, True):
        vit = CMAEHybridViTDet(window_size=4, window_blocks=(0, 1), img_size=96, with_cp=with_cp, **SIZES)
        vit.load_state_dict(first.state_dict())
        (vit(images)[0] ** 2).mean().backward()
        grads.append({n: p.grad for n, p in vit.named_parameters()})
    assert all(g is not None for g in grads[0].values())
    for name, grad in grads[0].items():
        torch.testing.assert_close(grad, grads[1][name], atol=1e-7, rtol=0)


@pytest.mark.parametrize(
    "fusion", [True, False]
)  # with it the file holds the multi-scale sum, which stays behind
def test_starts_from_the_backbone_file_of_a_hybrid(fusion, tmp_path):
    torch.manual_seed(0)
    arch = dict(widths=(16, 24, 48), depths=(2, 1, 3), heads=4, mlp_ratios=(4, 4, 4))
    encoder = CMAEHybridViT(arch, img_size=64, fusion=fusion)
    encoder.init_weights()
    state = canonical_state(encoder.state_dict())
    feed = SimpleNamespace(
        mean=torch.tensor([123.675, 116.28, 103.53]),
        std=torch.tensor([58.395, 57.12, 57.375]),
        channel_order="rgb",
    )
    header = BackboneHeader(**describe_encoder("cmae", encoder, feed))
    save_backbone(tmp_path / "hybrid.safetensors", state, header)
    vit = CMAEHybridViTDet(
        backbone_file=str(tmp_path / "hybrid.safetensors"), **SIZES, **{**PLAIN, "pretrain_img_size": 96}
    )
    vit.init_weights()
    own = vit.state_dict()
    assert own["pos_embed"].shape[1] == 6 * 6  # resized from 4 x 4
    assert own.keys() <= state.keys()
    for key in own.keys() - {"pos_embed"}:
        torch.testing.assert_close(own[key], state[key], atol=0, rtol=0)


def test_classifier_matches_convmae():
    golden = load_file(GOLDEN)
    model = ImageNetHybrid(**SIZES, img_size=64).eval()
    state = {key[6:]: value for key, value in golden.items() if key.startswith("state.")}
    state |= {key[9:]: value for key, value in golden.items() if key.startswith("ft.state.")}
    model.load_state_dict({key: state[key] for key in model.state_dict()})
    with torch.no_grad():
        (pooled,) = model(golden["in.img"])
    torch.testing.assert_close(pooled, golden["ft.pooled"], atol=5e-6, rtol=0)
