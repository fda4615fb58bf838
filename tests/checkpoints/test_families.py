"""Every family: exactly these names recognised, exactly these keys dropped, and the same features as the original."""

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cmae_mm.checkpoints.importing import import_checkpoint
from cmae_mm.checkpoints.recognise import recognise
from cmae_mm.checkpoints.sources import FAMILIES
from cmae_mm.checkpoints.sources.cmae import encoder_state

GOLDEN = Path(__file__).parents[1] / "golden"


def decoder(z):
    return z.junk("mask_token", "decoder_pos_embed", "decoder_embed.weight", "decoder_blocks.0.norm1.weight")


def cae(z, table="row"):
    """An encoder with BEiT's biases and scales, absolute positions and no relative ones."""
    model = z.beit(use_rel_pos_bias=False, use_abs_pos_emb=True, pool="token")
    model.rel_pos_bias = None
    model.pos_embed.data.copy_(z.fixed_table(table))
    return model


def chunked(state):
    """Blocks as DINOv2 trains them: a chunk number before the absolute one."""
    return {re.sub(r"^blocks\.(\d+)\.", r"blocks.0.\1.", k): v for k, v in state.items()}


# One row a layout: family, what recognise says, how the file is made. Each maker returns (file, reference, dropped).
CASES = {}


def case(name, family, names=None, **words):
    def keep(make):
        CASES[name] = (family, names or [family], make, words)
        return make

    return keep


PLAIN = ["dino", "ibot", "timm-vit"]
ROW = ["cmae", "mocov3"]
MM_ROW = ["cmae", "mmpretrain-mae", "mmpretrain-mocov3"]
BEIT_PT = ["beit", "beit2"]
STRIPPED = ["beit", "beit2", "data2vec", "simmim"]
BEIT_FT = ["beit", "beit2", "data2vec", "simmim", "timm-beit"]


@case("mae encoder", "mae")
def _(z):
    model = z.vit("col")
    return {"model": model.state_dict()}, model, []


@case("mae with decoder", "mae")
def _(z):
    model = z.vit("col")
    return {"model": z.cat(model.state_dict(), decoder(z))}, model, ["mask_token", "decoder_*"]


@case("mae fine-tuned", "mae", ["mae", "timm-vit"])
def _(z):
    model = z.vit(global_pool="avg")
    return {"model": z.cat(model.state_dict(), z.junk("head.weight"))}, model, ["head.*"]


@case("mocov3 full", "mocov3")
def _(z):
    model, other = z.vit("row"), z.vit("row", seed=1)
    head = z.junk("head.0.weight", "head.1.running_mean")
    state = z.cat(
        z.prefixed("module.base_encoder.", z.cat(model.state_dict(), head)),
        z.prefixed("module.momentum_encoder.", z.cat(other.state_dict(), head)),
        z.junk("module.predictor.0.weight"),
    )
    dropped = ["base_encoder.head.*", "momentum_encoder.*", "predictor.*"]
    return {"state_dict": state, "epoch": 300, "arch": "vit_base"}, model, dropped


@case("mocov3 momentum", "mocov3", branch="momentum")
def _(z):
    state, _, _ = CASES["mocov3 full"][2](z)
    return state, z.vit("row", seed=1), ["base_encoder.*", "momentum_encoder.head.*", "predictor.*"]


@case("mocov3 converted", "mocov3", ROW)
def _(z):
    model = z.vit("row")
    return {"model": model.state_dict()}, model, []


@case("dino backbone", "dino", PLAIN)
def _(z):
    model = z.vit()
    return model.state_dict(), model, []


def teacher_and_student(z, head):
    head = {k: torch.ones(2) for k in head}
    teacher, student = z.vit(), z.vit(seed=1)
    file = {
        "student": z.prefixed("module.", z.cat(z.prefixed("backbone.", student.state_dict()), head)),
        "teacher": z.cat(z.prefixed("backbone.", teacher.state_dict()), head),
        "epoch": 3,
    }
    return file, teacher, student


DINO_HEAD = ("head.mlp.0.weight", "head.mlp.0.bias", "head.last_layer.weight_g", "head.last_layer.weight_v")


@case("dino full", "dino")
def _(z):
    file, teacher, _ = teacher_and_student(z, DINO_HEAD)
    return file, teacher, ["head.mlp.*", "head.last_layer.*"]


@case("dino student", "dino", branch="student")
def _(z):
    file, _, student = teacher_and_student(z, DINO_HEAD)
    return file, student, ["head.mlp.*", "head.last_layer.*"]


@case("ibot teacher", "ibot", PLAIN)
def _(z):
    model = z.vit()
    return {"state_dict": model.state_dict()}, model, []


@case("ibot student", "ibot")
def _(z):
    model = z.vit()
    return {"state_dict": z.cat(model.state_dict(), z.junk("masked_embed"))}, model, ["masked_embed"]


@case("ibot full", "ibot")
def _(z):
    file, teacher, _ = teacher_and_student(z, (*DINO_HEAD, "head.last_layer2.weight_v"))
    return file, teacher, ["head.*"]


def lm_head(*shape):
    return {
        "mask_token": torch.ones(1, 1, 48),
        "lm_head.weight": torch.ones(shape),
        "lm_head.bias": torch.ones(48),
    }


@case("beit pretrained", "beit", BEIT_PT)
def _(z):
    model = z.beit(shared=True, pool="token")
    file = {"model": z.cat(z.shared_to_original(model), lm_head(64, 48))}
    return file, model, ["lm_head.*", "mask_token", "rel_pos_bias.relative_position_index"]


@case("beit absolute", "beit")
def _(z):
    model = z.beit(use_rel_pos_bias=False, use_abs_pos_emb=True, pool="token", init_values=None)
    return {"model": z.cat(model.state_dict(), lm_head(64, 48))}, model, ["lm_head.*", "mask_token"]


def stripped(z):
    model = z.beit(shared=True, pool="token")
    return {"model": z.shared_to_original(model)}, model, ["rel_pos_bias.relative_position_index"]


def fine_tuned(z):
    model = z.beit()
    file = {"model": z.cat(model.state_dict(), z.beit_index(model), z.junk("head.weight"))}
    return file, model, ["blocks.*.attn.relative_position_index", "head.*"]


for design in STRIPPED:
    case(f"{design} stripped", design, STRIPPED)(stripped)
    case(f"{design} fine-tuned", design, BEIT_FT, normalization="half")(fine_tuned)


@case("beit segmentation", "beit", BEIT_PT, normalization="half")
def _(z):
    model = z.beit(pool="token")
    model.norm = torch.nn.Identity()
    inner = z.cat(model.state_dict(), z.beit_index(model), z.junk("fpn1.0.weight"))
    extra = z.junk("decode_head.conv_seg.weight", "auxiliary_head.convs.0.conv.weight")
    dropped = [
        "auxiliary_head.*",
        "backbone.blocks.*.attn.relative_position_index",
        "backbone.fpn*",
        "decode_head.*",
    ]
    return {"state_dict": z.cat(z.prefixed("backbone.", inner), extra)}, model, dropped


@case("beit2 pretrained", "beit2")
def _(z):
    model = z.beit(shared=True, pool="token")
    extra = z.junk("cls_pt_layers.0.norm1.weight", "cls_pt_layers.1.attn.q_bias")
    file = {"module": z.cat(z.shared_to_original(model), lm_head(64, 48), extra)}
    return file, model, ["cls_pt_layers.*", "lm_head.*", "mask_token", "rel_pos_bias.relative_position_index"]


@case("data2vec pretrained", "data2vec")
def _(z):
    model = z.beit(shared=True, pool="token")
    state = z.cat(z.shared_to_original(model), lm_head(48, 48))
    dropped = ["lm_head.*", "mask_token", "rel_pos_bias.relative_position_index"]
    return {"model": state, "model_ema": {k: 0 * v for k, v in state.items()}}, model, dropped


@case("simmim pretrained", "simmim")
def _(z):
    model = z.beit(shared=True, pool="token")
    inner = z.cat(z.shared_to_original(model), z.junk("mask_token"))
    file = {"model": z.cat(z.prefixed("encoder.", inner), z.junk("decoder.0.weight", "decoder.0.bias"))}
    return file, model, ["decoder.0.*", "encoder.mask_token", "encoder.rel_pos_bias.relative_position_index"]


@case("cae full", "cae")
def _(z):
    model = cae(z)
    extra = z.junk("mask_token", "pretext_neck.norm.weight", "teacher.cls_token")
    file = {"model": z.cat(z.prefixed("encoder.", model.state_dict()), extra)}
    return file, model, ["mask_token", "pretext_neck.*", "teacher.*"]


@case("cae encoder", "cae")
def _(z):
    model = cae(z)
    return {"model": model.state_dict()}, model, []


@case("maskfeat", "maskfeat")
def _(z):
    model = z.vit(final_norm=False)
    extra = z.junk("mask_token", "pred_head.projection.weight", "hogs.0.weight_x")
    return {"model_state": z.cat(model.state_dict(), extra)}, model, ["hogs.*", "mask_token", "pred_head.*"]


@case("dinov2", "dinov2")
def _(z):
    model = z.vit(patch=14, init_values=1.0)
    return z.cat(model.state_dict(), {"mask_token": torch.ones(1, 48)}), model, ["mask_token"]


@case("dinov2 registers", "dinov2")
def _(z):
    model = z.vit(patch=14, init_values=1.0, reg_tokens=4, no_embed_class=True)
    return z.cat(z.unfolded(model), {"mask_token": torch.ones(1, 48)}), model, ["mask_token"]


@case("dinov2 swiglu", "dinov2")
def _(z):
    model = z.vit(patch=14, init_values=1.0, **z.swiglu())
    state = z.rename(model.state_dict(), (r"mlp\.fc1\.", "mlp.w12."), (r"mlp\.fc2\.", "mlp.w3."))
    return z.cat(state, {"mask_token": torch.ones(1, 48)}), model, ["mask_token"]


@case("dinov2 training", "dinov2")
def _(z):
    model = z.vit(patch=14, init_values=1.0)
    inner = z.cat(chunked(model.state_dict()), {"mask_token": torch.ones(1, 48)})
    file = {"teacher": z.cat(z.prefixed("backbone.", inner), z.junk("dino_head.mlp.0.weight"))}
    return file, model, ["backbone.mask_token", "dino_head.*"]


@case("dinov2 of timm", "dinov2")
def _(z):
    model = z.vit(patch=14, init_values=1.0)
    return model.state_dict(), model, []


@case("dinov2 registers of timm", "dinov2")
def _(z):
    model = z.vit(patch=14, init_values=1.0, reg_tokens=4, no_embed_class=True)
    return model.state_dict(), model, []


@case("cmae full", "cmae")
def _(z):
    model, other = z.vit("row"), z.vit("row", seed=1)
    target = {k: v for k, v in z.to_mm(other.state_dict()).items() if not k.startswith("ln1.")}
    state = z.cat(
        z.prefixed("backbone.", z.to_mm(model.state_dict())),
        z.prefixed("target_backbone.", target),
        z.junk("pixel_decoder.ln1.weight", "projector.fc0.weight", "head.predictor.fc0.weight"),
    )
    return (
        {"state_dict": state, "meta": {}},
        model,
        ["head.*", "pixel_decoder.*", "projector.*", "target_backbone.*"],
    )


@case("cmae target", "cmae", branch="target")
def _(z):
    file, _, _ = CASES["cmae full"][2](z)
    model = z.vit("row", seed=1, final_norm=False)
    reference = z.vit("row", seed=1).state_dict()
    model.load_state_dict({k: v for k, v in reference.items() if not k.startswith("norm.")})
    return file, model, ["backbone.*", "head.*", "pixel_decoder.*", "projector.*"]


@case("cmae extracted", "cmae", MM_ROW)
def _(z):
    model = z.vit("row")
    return {"state_dict": z.to_mm(model.state_dict()), "author": "CMAE"}, model, []


@case("cmae old", "cmae")
def _(z):
    model = z.vit("row")
    state = z.cat(z.prefixed("encoder_s.", model.state_dict()), z.junk("encoder_t.cls_token"))
    return {"state_dict": state}, model, ["*"]


@case("cmae converted from old", "cmae")
def _(z):
    model = z.vit("row")
    state = z.rename(z.to_mm(model.state_dict()), (r"^ln1\.", "ln."))
    return {"state_dict": state}, model, []


@case("cmae fine-tuned", "cmae")
def _(z):
    model = z.vit(global_pool="avg")
    state = z.rename(z.to_mm(model.state_dict()), (r"^ln2\.", "fc_norm."))
    return (
        {"state_dict": z.cat(z.prefixed("backbone.", state), z.junk("head.head.weight"))},
        model,
        ["head.*"],
    )


@pytest.mark.parametrize("name", CASES)
def test_features_are_those_of_the_original(name, zoo, tmp_path):
    family, names, make, words = CASES[name]
    file, reference, dropped = make(zoo)
    result = zoo.check_features(file, reference, tmp_path / "file.pth", family, names, **words)
    assert sorted(result.header.dropped) == sorted(dropped)


def test_every_family_of_an_original_program_has_a_case():
    libraries = ("mmpretrain-", "timm-", "hf-")
    staged = {"simmim-swin", "swin", "convmae"}  # see test_staged.py
    original = {name for name in FAMILIES if not name.startswith(libraries)}
    assert {family for family, *_ in CASES.values()} == original - staged


def test_golden_cmae_checkpoint(tmp_path):
    golden = load_file(GOLDEN / "cmae_released_tiny.safetensors")
    full = {k[6:]: v for k, v in golden.items() if k.startswith("state.")}
    assert recognise({"state_dict": full}) == ["cmae"]
    torch.save({"state_dict": full}, tmp_path / "cmae.pth")
    result = import_checkpoint(tmp_path / "cmae.pth", heads=4)
    assert (result.header.branch, result.header.channel_order) == ("online", "bgr")
    assert any("bgr assumed" in note for note in result.report.notes)
    expected = encoder_state(full, "golden")
    assert set(result.state) == set(expected)
    assert all(torch.equal(result.state[k], v) for k, v in expected.items())


def test_golden_mae_checkpoint_gives_the_recorded_tokens(zoo, tmp_path):
    golden = load_file(GOLDEN / "mae_official_tiny.safetensors")
    state = {k[6:]: v for k, v in golden.items() if k.startswith("state.")}
    torch.save({"model": state}, tmp_path / "mae.pth")
    result = import_checkpoint(tmp_path / "mae.pth", heads=4)
    assert (result.header.family, result.header.pooling) == ("mae", "avg")
    with torch.no_grad():
        tokens = zoo.build(result.header, result.state).forward_features(golden["in.img"])
    zoo.assert_same(tokens, golden["out.tokens_unmasked"])
