"""A real pretraining checkpoint becomes a backbone file that timm computes the same features from."""

import re
from glob import glob

import pytest
import torch

from cmae_mm.checkpoints import load_backbone, save_backbone, sha256_of
from cmae_mm.checkpoints.importing import import_checkpoint
from cmae_mm.checkpoints.training_checkpoint import timm_difference, timm_model
from cmae_mm.engine.config import load_config
from cmae_mm.errors import UserError


@pytest.fixture(scope="module")
def exported(pretraining_run, tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "cmae.safetensors"
    return pretraining_run / "last.pth", path, import_checkpoint(pretraining_run / "last.pth", path).header


def test_header_tells_what_was_trained(exported):
    checkpoint, path, header = exported
    assert load_backbone(path)[1] == header
    built = load_config(glob("configs/mini/cmae_vit-mini*_pretrain.py")[0]).model.backbone
    assert (header.method, header.depth) == ("cmae", 2)
    assert (header.width, header.heads) == (built.arch.embed_dims, built.arch.num_heads)
    assert (header.hidden, header.image_size) == (built.arch.feedforward_channels, built.img_size)
    assert header.patch == built.patch_size
    assert (header.channel_order, header.epochs, header.source) == ("bgr", 1, "last.pth")
    assert header.source_sha256 == sha256_of(checkpoint)


def test_values_are_the_online_encoder_bit_by_bit(exported):
    checkpoint, path, _ = exported
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    ours, _ = load_backbone(path)
    assert torch.equal(ours["patch_embed.proj.weight"], state["backbone.patch_embed.projection.weight"])
    assert torch.equal(ours["blocks.1.mlp.fc1.weight"], state["backbone.layers.1.ffn.layers.0.0.weight"])
    assert torch.equal(ours["blocks.0.norm2.bias"], state["backbone.layers.0.ln2.bias"])
    assert torch.equal(ours["norm.weight"], state["backbone.ln1.weight"])
    # the last layers of both encoders differ after two steps: it is the online one
    target = state["target_backbone.layers.1.ffn.layers.0.0.weight"]
    assert not torch.equal(ours["blocks.1.mlp.fc1.weight"], target)


def test_timm_computes_the_same_features(exported):
    checkpoint, path, _ = exported
    assert timm_difference(checkpoint, path) < 1e-5


@pytest.mark.parametrize(
    "key", ["blocks.1.attn.qkv.weight", "pos_embed", "norm.bias", "blocks.0.mlp.fc1.bias"]
)
def test_the_comparison_with_timm_can_fail(exported, tmp_path, key):
    checkpoint, path, _ = exported
    state, header = load_backbone(path)
    state[key] = state[key] + 1e-2 * torch.randn(state[key].shape, generator=torch.Generator().manual_seed(0))
    save_backbone(tmp_path / "wrong.safetensors", state, header)
    assert timm_difference(checkpoint, tmp_path / "wrong.safetensors") > 1e-5


def test_the_comparison_with_timm_sees_wrong_heads(exported, tmp_path):
    checkpoint, path, header = exported
    wrong = header.from_dict({**header.__dict__, "heads": header.heads * 2}, "test")
    save_backbone(tmp_path / "wrong.safetensors", load_backbone(path)[0], wrong)
    assert timm_model(tmp_path / "wrong.safetensors").blocks[0].attn.num_heads == wrong.heads
    with pytest.raises((AssertionError, RuntimeError)):  # mmpretrain builds it with the same header
        assert timm_difference(checkpoint, tmp_path / "wrong.safetensors") > 1e-5


def test_other_checkpoints_are_refused(tmp_path):
    torch.save({"state_dict": {}, "meta": {"epoch": 1}}, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"other\.pth: holds no dictionary of tensors"):
        import_checkpoint(tmp_path / "other.pth", tmp_path / "out.safetensors")
    torch.save({"state_dict": {}, "meta": {"backbone_header": {"method": "x"}}}, tmp_path / "half.pth")
    with pytest.raises(UserError, match=r"half\.pth: the header is incomplete"):
        import_checkpoint(tmp_path / "half.pth", tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize(
    "words",
    [
        {"source": "mae"},
        {"heads": 4},
        {"channel_order": "rgb"},
        {"normalization": "half"},
        {"branch": "target"},
    ],
)
def test_nothing_can_be_said_against_the_checkpoint(exported, words):
    option = "--" + next(iter(words)).replace("_", "-")
    with pytest.raises(UserError, match=f"says itself how it was trained; drop {option}"):
        import_checkpoint(exported[0], **words)


def test_command_prints_the_difference_and_refuses_an_impossible_target(exported, tmp_path, call, capsys):
    from cmae_mm.cli import run

    assert call(run, "import", exported[0], "--out", tmp_path / "x.safetensors") == 0
    said = capsys.readouterr().out
    assert "cmae (training checkpoint, online encoder), 2 blocks" in said
    assert float(re.search(r"largest difference (\S+)", said)[1]) < 1e-5
    (tmp_path / "file").write_text("")
    assert call(run, "import", exported[0], "--out", tmp_path / "file" / "x.safetensors") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
