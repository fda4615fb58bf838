"""Recognition is exact: real sizes of timm's models, one key more or less, fixed tables, and refusals."""

import warnings

import pytest
import torch

from cmae_mm.checkpoints.backbone_file import expected_keys, expected_shape
from cmae_mm.checkpoints.geometry import Misfit, describe
from cmae_mm.checkpoints.position_tables import sincos_table, table_kind
from cmae_mm.checkpoints.recognise import closest_family, recognise
from cmae_mm.checkpoints.refusals import refusal
from cmae_mm.checkpoints.sources import FAMILIES
from cmae_mm.checkpoints.unwrap import unwrap
from cmae_mm.errors import UserError

PLAIN = ["dino", "ibot", "timm-vit"]
REAL = {
    "vit_tiny_patch16_224": PLAIN,
    "vit_small_patch16_224": PLAIN,
    "vit_base_patch16_224": PLAIN,
    "vit_base_patch8_224": PLAIN,
    "vit_large_patch16_224": PLAIN,
    "vit_huge_patch14_224": ["timm-vit"],
    "vit_base_patch16_reg4_gap_256": ["timm-vit"],
    "deit3_base_patch16_224": ["timm-vit"],
    "deit3_huge_patch14_224": ["timm-vit"],
    "vit_base_patch14_dinov2": ["dinov2"],
    "vit_base_patch14_reg4_dinov2": ["dinov2"],
    "vit_giant_patch14_dinov2": ["dinov2"],
    "beit_base_patch16_224": ["timm-beit"],
    "beitv2_large_patch16_224": ["timm-beit"],
}
REFUSED = {
    "vit_base_patch16_dinov3": "DINOv3",
    "eva02_base_patch14_224": "EVA",
    "vit_base_patch16_siglip_224": "SigLIP",
    "vit_base_patch16_clip_224": "CLIP",
    "samvit_base_patch16": "SAM",
    "swinv2_tiny_window8_256": "second version of Swin",
    "xcit_small_12_p16_224": "XCiT",
    "vit_base_r50_s16_224": "convolutional stem",
    "deit_base_distilled_patch16_224": "distilled",
    "resnet18": "ResNet",
}


def timm_state(name):
    """Keys and shapes of a real model; only what recognition looks at has values."""
    import timm

    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = timm.create_model(name, num_classes=0)
    state = model.state_dict()
    for key in ("pos_embed", "cls_token"):
        if key in state:
            state[key] = torch.randn(state[key].shape, generator=torch.Generator().manual_seed(0))
    return model, state


@pytest.mark.parametrize("name", REAL)
def test_real_models_of_timm(name):
    model, state = timm_state(name)
    assert recognise(state) == REAL[name]
    for family in REAL[name]:
        found = FAMILIES[family].heads[model.embed_dim, len(model.blocks)]
        assert found == model.blocks[0].attn.num_heads


@pytest.mark.parametrize("name", REFUSED)
def test_models_that_are_refused(name):
    _, state = timm_state(name)
    assert REFUSED[name] in refusal(state)
    assert recognise(state) == []


@pytest.mark.parametrize(
    ("key", "shape", "words"),
    [
        ("rope_embed.periods", (16,), "DINOv3"),
        ("storage_tokens", (1, 4, 48), "DINOv3"),
        ("blocks.0.attn.qkv.bias_mask", (144,), "DINOv3"),
        ("layer.0.attention.q_proj.weight", (48, 48), "DINOv3"),
        ("model.layer.0.mlp.up_proj.weight", (96, 48), "DINOv3"),
        ("blocks.0.attn.q_proj.weight", (48, 48), "EVA"),
        ("layers.0.blocks.0.attn.cpb_mlp.0.weight", (512, 2), "second version of Swin"),
        ("backbone.stages.0.blocks.0.attn.w_msa.logit_scale", (3, 1, 1), "second version of Swin"),
        ("blocks.2.attn.rel_pos_h", (27, 16), "SAM"),
        ("image_encoder.patch_embed.proj.weight", (48, 3, 16, 16), "SAM"),
        ("encoder.pos_embed", (1, 8, 8, 48), "two axes"),
        ("attn_pool.latent", (1, 1, 48), "SigLIP"),
        ("vision_model.head.probe", (1, 1, 48), "SigLIP"),
        ("visual.conv1.weight", (48, 3, 16, 16), "CLIP"),
        ("text_projection", (48, 48), "CLIP"),
        ("vision_model.embeddings.class_embedding", (48,), "CLIP"),
        ("norm_pre.weight", (48,), "CLIP"),
        ("backbone.pre_norm.weight", (48,), "CLIP"),
        ("base_encoder.patch_embed.proj.0.weight", (6, 3, 3, 3), "convolutional stem"),
        ("patch_embed.backbone.stem.conv.weight", (6, 3, 3, 3), "convolutional stem"),
        ("patch_embed4.weight", (48, 48), "ConvMAE version 2"),
        ("pos_embed_spatial", (1, 16, 48), "MViT"),
        ("dist_token", (1, 1, 48), "distilled"),
        ("blocks.0.attn.temperature", (3, 1, 1), "XCiT"),
        ("patch_embed.proj.weight", (48, 3, 2, 16, 16), "video"),
        ("layer1.0.conv1.weight", (64, 64, 3, 3), "ResNet"),
        ("stages.0.0.dwconv.weight", (64, 1, 7, 7), "ConvNeXt"),
    ],
)
def test_one_key_is_enough_for_a_refusal(zoo, key, shape, words):
    state = {**zoo.vit().state_dict(), key: torch.zeros(shape)}
    assert words in refusal(state)
    assert recognise({"model": state}) == []


def test_i_jepa_is_refused_by_its_outer_keys(zoo):
    state = zoo.vit().state_dict()
    file = {"encoder": state, "target_encoder": state, "predictor": state, "epoch": 3}
    assert "I-JEPA" in refusal({}, file)
    assert recognise(file) == []


def test_a_plain_vit_is_not_refused(zoo):
    assert refusal(zoo.vit().state_dict()) == ""
    assert refusal(zoo.beit().state_dict()) == ""
    # DINOv2 has registers and positions; a frozen CLIP that only makes targets does not speak for the encoder
    registers = zoo.vit(reg_tokens=4, no_embed_class=True).state_dict()
    assert refusal({**registers, "target_generator.visual.proj": torch.zeros(2)}) == ""


@pytest.mark.parametrize("table", ["learned", "row", "col"])
@pytest.mark.parametrize("change", ["missing", "unexpected", "shape", "block"])
def test_one_key_wrong_fits_nothing(zoo, table, change):
    state = zoo.vit(table).state_dict()
    assert recognise(state) != []
    if change == "missing":
        del state["blocks.1.attn.proj.bias"]
    elif change == "unexpected":
        state["blocks.1.attn.q_norm.weight"] = torch.zeros(16)
    elif change == "shape":
        state["blocks.1.mlp.fc2.weight"] = state["blocks.1.mlp.fc2.weight"][:, :-1]
    else:
        state |= {k.replace("blocks.0", "blocks.3"): v for k, v in state.items() if k.startswith("blocks.0")}
    assert recognise(state) == []
    name, reason = closest_family(state)
    assert name in FAMILIES
    assert {"missing": "proj.bias", "unexpected": "q_norm", "shape": "fc2", "block": "blocks.2"}[
        change
    ] in reason


@pytest.mark.parametrize(
    ("table", "names"), [("learned", PLAIN), ("row", ["cmae", "mocov3"]), ("col", ["mae"])]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_position_table_is_evidence_in_every_precision(zoo, table, names, dtype):
    state = {k: v.to(dtype) for k, v in zoo.vit(table).state_dict().items()}
    assert recognise(state) == names


def test_recognition_reads_no_more_than_shapes_and_positions(zoo):
    state = zoo.vit().state_dict()
    names = recognise(state)
    assert (
        recognise({k: torch.full_like(v, torch.nan) if "block" in k else v for k, v in state.items()})
        == names
    )


def test_recognition_takes_whole_files_and_bare_tensors(zoo):
    state = zoo.vit("col").state_dict()
    assert (
        recognise(state)
        == recognise({"model": state})
        == recognise(unwrap({"model": state}).state)
        == ["mae"]
    )
    with pytest.raises(UserError, match="holds no dictionary of tensors"):
        recognise({"epoch": 3})


@pytest.mark.parametrize("side", [2, 3, 14])
@pytest.mark.parametrize("width", [16, 48, 768])
@pytest.mark.parametrize("prefix", [0, 1])
def test_fixed_tables(side, width, prefix):
    from mmpretrain.models.utils import build_2d_sincos_position_embedding

    row = build_2d_sincos_position_embedding((side, side), width)  # (1, side * side, width)
    assert torch.allclose(sincos_table(side, width), row, atol=1e-6)
    col = row.reshape(1, side, side, width).transpose(1, 2).reshape(1, -1, width)
    assert torch.allclose(sincos_table(side, width, "col"), col, atol=1e-6)
    zero = torch.zeros(1, prefix, width)
    for kind, table in (("sincos_row", row), ("sincos_col", col)):
        whole = torch.cat((zero, table), 1)
        assert table_kind(whole) == kind
        assert table_kind(whole + 1e-3) == "learned"
        if prefix:
            whole[0, 0, 3] = 0.01
            assert table_kind(whole) == "learned"


@pytest.mark.parametrize("shape", [(1, 12, 48), (1, 17, 50), (1, 1, 48), (1, 0, 48)])
def test_odd_tables_are_learned(shape):
    assert table_kind(torch.zeros(shape)) == "learned"


def test_no_table_is_none():
    assert table_kind(None) == "none"


@pytest.mark.parametrize("patch", [8, 14, 16])
@pytest.mark.parametrize(
    "change",
    [
        {},
        {"class_token": False, "global_pool": "avg"},
        {"init_values": 0.1, "no_embed_class": True},
        {"reg_tokens": 4, "no_embed_class": True},
        {"global_pool": "avg"},
        {"final_norm": False},
        {"depth": 3, "embed_dim": 96, "num_heads": 6, "mlp_ratio": 4.0},
    ],
)
def test_the_architecture_is_read_from_shapes(zoo, patch, change):
    model = zoo.vit(patch=patch, **change)
    state = model.state_dict()
    header = describe(state)
    assert set(state) == expected_keys(header)
    assert all(tuple(v.shape) == expected_shape(k, header) for k, v in state.items())
    assert (header.patch, header.image_size, header.width) == (patch, 4 * patch, model.embed_dim)
    assert (header.depth, header.hidden) == (len(model.blocks), model.blocks[0].mlp.fc1.out_features)
    assert (header.class_token, header.registers) == (model.has_class_token, model.num_reg_tokens)
    assert header.heads == 0  # no shape shows it


@pytest.mark.parametrize("rows", [15, 18, 20])
def test_a_table_of_no_square_grid_is_no_vit(zoo, rows):
    state = zoo.vit().state_dict()
    state["pos_embed"] = torch.zeros(1, rows, 48)
    with pytest.raises(Misfit, match=f"pos_embed has {rows} rows"):
        describe(state)


def test_the_heads_of_relative_tables_are_read():
    sides = {7: 4, 27: 14}
    for side, grid in sides.items():
        header = describe(_relative(side, heads=3))
        assert (header.heads, header.grid, header.position) == (3, grid, "none")
    with pytest.raises(Misfit, match="square table of relative positions"):
        describe(_relative(8, heads=3))


def _relative(side, heads):
    """Tensors of one block with a table for side x side offsets."""
    linear = {"attn.qkv": (144, 48), "attn.proj": (48, 48), "mlp.fc1": (96, 48), "mlp.fc2": (48, 96)}
    state = {f"blocks.0.{k}.weight": torch.zeros(v) for k, v in linear.items()}
    state |= {f"blocks.0.{k}.bias": torch.zeros(v[0]) for k, v in linear.items()}
    for name in ("blocks.0.norm1", "blocks.0.norm2", "norm"):
        state |= {f"{name}.{kind}": torch.zeros(48) for kind in ("weight", "bias")}
    state["blocks.0.attn.relative_position_bias_table"] = torch.zeros(side * side + 3, heads)
    state |= {"cls_token": torch.zeros(1, 1, 48), "patch_embed.proj.bias": torch.zeros(48)}
    return state | {"patch_embed.proj.weight": torch.zeros(48, 3, 16, 16)}
