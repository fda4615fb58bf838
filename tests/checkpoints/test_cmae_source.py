"""Official CMAE layouts: all give the same encoder, and transfer reproduces its tokens."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cmae_mm.checkpoints import BackboneHeader, load_into, save_backbone
from cmae_mm.checkpoints.sources.cmae import encoder_state
from cmae_mm.checkpoints.sources.openmmlab import timm_name
from cmae_mm.errors import UserError
from cmae_mm.pretrain import CMAEViT

GOLDEN = load_file(Path(__file__).parents[1] / "golden" / "cmae_released_tiny.safetensors")
FULL = {k[6:]: v for k, v in GOLDEN.items() if k.startswith("state.")}
ARCH = dict(embed_dims=48, num_layers=2, num_heads=4, feedforward_channels=192)
HEADER = BackboneHeader(
    method="cmae", width=48, depth=2, heads=4, hidden=192, patch=4, image_size=32, channel_order="bgr"
)


def layouts():
    prefixed = {k: v for k, v in FULL.items() if k.startswith("backbone.")}
    bare = {k[9:]: v for k, v in prefixed.items()}
    old = {f"encoder_s.{timm_name(k)}": v for k, v in bare.items()}
    converted = {("ln" + k[3:] if k.startswith("ln1.") else k): v for k, v in bare.items()}
    return {"full": FULL, "prefixed": prefixed, "bare": bare, "old": old, "converted": converted}


@pytest.fixture(scope="module")
def tokens():
    """Patch tokens of the encoder itself, from the recorded weights, before its final norm."""
    encoder = CMAEViT(arch=ARCH, img_size=32, patch_size=4, final_norm=False)
    state = {
        k[9:]: v for k, v in FULL.items() if k.startswith("backbone.") and not k.startswith("backbone.ln1")
    }
    encoder.load_state_dict(state)
    with torch.no_grad():
        return encoder(GOLDEN["in.img"], mask=None)[0][:, 1:]


@pytest.mark.parametrize("layout", layouts())
def test_every_layout_gives_the_same_encoder(layout):
    ours = encoder_state(layouts()[layout], layout)
    expected = {timm_name(k[9:]): v for k, v in FULL.items() if k.startswith("backbone.")}
    assert set(ours) == set(expected)
    assert all(torch.equal(ours[k], v) for k, v in expected.items())


@pytest.mark.parametrize("lost", ["backbone.pos_embed", "backbone.layers.1.ln2.bias", "backbone.ln1.weight"])
def test_a_missing_tensor_is_named(lost):
    with pytest.raises(UserError, match=r"file\.pth.*missing"):
        encoder_state({k: v for k, v in FULL.items() if k != lost}, "file.pth")
    with pytest.raises(UserError, match="every block"):
        encoder_state({k: v for k, v in FULL.items() if ".layers." not in k}, "file.pth")


def rgb_of(network_input):
    """The RGB input, with ImageNet statistics, of pixels that the encoder saw as BGR with RGB statistics."""
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (HEADER.mean, HEADER.std))
    pixels = (network_input * std + mean).flip(1)
    return (pixels - mean) / std


def test_dense_transfer_reproduces_the_patch_tokens(tokens, tmp_path):
    """The imported encoder, folded to RGB, in the detection backbone with global attention."""
    from cmae_mm.transfer.vit import DenseViT

    save_backbone(tmp_path / "cmae.safetensors", encoder_state(FULL, "golden"), HEADER)
    dense = DenseViT(
        backbone_file=str(tmp_path / "cmae.safetensors"),
        img_size=32,
        patch_size=4,
        embed_dims=48,
        depth=2,
        num_heads=4,
        pretrain_img_size=32,
        cls_token=True,
        rel_pos="none",
    )
    dense.init_weights()
    dense.eval()
    with torch.no_grad():
        out = dense(rgb_of(GOLDEN["in.img"]))
    feature = out[-1] if isinstance(out, (list, tuple)) else out
    torch.testing.assert_close(feature.flatten(2).transpose(1, 2), tokens, atol=1e-5, rtol=1e-5)


def test_strict_loading_into_an_encoder(tmp_path):
    save_backbone(tmp_path / "cmae.safetensors", encoder_state(FULL, "golden"), HEADER)
    encoder = CMAEViT(arch=ARCH, img_size=32, patch_size=4)
    report = load_into(encoder, tmp_path / "cmae.safetensors", rename=timm_name)
    assert len(report.matched) == len(encoder.state_dict())
    assert any("bgr" in note for note in report.notes)
