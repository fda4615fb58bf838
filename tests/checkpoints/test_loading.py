"""Strict loading into a model: what matched, what is new, what was left, and refusals that change nothing."""

import logging
import re
from dataclasses import replace
from functools import partial

import cmae_mm.compat  # noqa: F401  (before torchvision, which timm imports)

# isort: split
import pytest
import torch
from mmengine.logging import MMLogger
from timm.layers import SwiGLUPacked
from timm.models.vision_transformer import VisionTransformer

from cmae_mm.checkpoints import load_backbone, load_into, save_backbone
from cmae_mm.checkpoints.backbone_file import expected_keys, expected_shape
from cmae_mm.checkpoints.resize import resize_pos_embed, resize_rel_pos_table
from cmae_mm.checkpoints.sources.openmmlab import timm_name
from cmae_mm.errors import UserError
from cmae_mm.pretrain.backbone import CMAEViT
from cmae_mm.transfer.imagenet import ImageNetViT
from cmae_mm.transfer.start import OPTIONAL_KEYS
from cmae_mm.transfer.vit import DenseViT

MM_ARCH = dict(embed_dims=48, num_layers=2, num_heads=3, feedforward_channels=96)
DENSE = dict(
    img_size=32, patch_size=8, embed_dims=48, depth=2, num_heads=3, mlp_ratio=2.0, pretrain_img_size=32
)


def timm_vit(**change):
    arch = dict(img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=3, mlp_ratio=2.0, num_classes=0)
    return VisionTransformer(**{**arch, **change})


def snapshot(model):
    return {k: v.clone() for k, v in model.state_dict().items()}


def test_every_tensor_lands(backbone_file):
    model = timm_vit()
    report = load_into(model, backbone_file)
    state, _ = load_backbone(backbone_file)
    assert report.matched == sorted(state)
    assert (report.resized, report.missing, report.unexpected, report.notes) == ({}, [], [], [])
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert str(report) == f"backbone file {backbone_file}: 30 of 30 encoder tensors loaded"


def test_allowed_differences_are_reported(backbone_file):
    model = timm_vit(num_classes=5)
    model.norm = torch.nn.Identity()
    report = load_into(model, backbone_file, optional=(r"^norm\.", r"^head\."))
    assert report.unexpected == ["norm.bias", "norm.weight"]
    assert report.missing == ["head.bias", "head.weight"]
    assert len(report.matched) == 28
    assert str(report).endswith(
        ": 28 of 30 encoder tensors loaded; 2 of the model not in the file (head.bias, head.weight); "
        "2 left out (norm.bias, norm.weight)"
    )


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
        (
            {"mlp_ratio": 4.0},
            r"24 of 30 encoder tensors do \(80.0 %\): 6 shapes differ \(blocks.\*.mlp.fc1.bias \(2 times\), "
            r"blocks.\*.mlp.fc1.weight \(2 times\), blocks.\*.mlp.fc2.weight \(2 times\); the first: file \(96,\), "
            r"model \(192,\)\); use",
        ),
        ({"num_classes": 5}, r"\(100.0 %\): 2 of the model are not in the file \(head.bias, head.weight\)"),
        (
            {"qkv_bias": False},
            r"28 of 30 .* \(93.3 %\): 2 of the file have no place \(blocks.\*.attn.qkv.bias \(2 times\)\)",
        ),
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
    assert report.notes == ["stem folded from bgr input to rgb"]
    assert report.resized == {"pos_embed": "4x4 to 6x6"}
    assert "; pos_embed resized from 4x4 to 6x6; stem folded from bgr input to rgb" in str(report)
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
    ours = ImageNetViT(
        arch=MM_ARCH, img_size=32, patch_size=8, out_type="raw", backbone_file=str(backbone_file)
    )
    ours.init_weights()
    theirs = timm_vit(norm_layer=partial(torch.nn.LayerNorm, eps=1e-6))
    load_into(theirs, backbone_file)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = theirs.eval().forward_features(images)
        ours.eval()  # returns None in mmpretrain
        torch.testing.assert_close(ours(images)[-1], expected, atol=1e-5, rtol=0)


def test_mmpretrain_vit_of_another_depth_is_refused(backbone_file):
    arch = {**MM_ARCH, "num_layers": 3}
    vit = ImageNetViT(arch=arch, img_size=32, patch_size=8, backbone_file=str(backbone_file))
    with pytest.raises(UserError, match=re.escape("with depth 2, the config builds one with depth 3")):
        vit.init_weights()


# Encoders that are more than a plain ViT.


def extended(make_encoder, **change):
    """A random encoder with parts that the shared fixture does not draw."""
    header = replace(make_encoder()[1], **change)
    draw = torch.Generator().manual_seed(1)
    shapes = {key: expected_shape(key, header) for key in sorted(expected_keys(header))}
    return {key: 0.1 * torch.randn(shape, generator=draw) for key, shape in shapes.items()}, header


@pytest.fixture
def written(make_encoder, tmp_path):
    """A function that writes an extended encoder and returns its path."""

    def write(**change):
        save_backbone(tmp_path / "extended.safetensors", *extended(make_encoder, **change))
        return tmp_path / "extended.safetensors"

    return write


def features(model):
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    model.eval()
    with torch.no_grad():
        return model.forward_features(images)


@pytest.mark.parametrize(
    ("change", "build"),
    [
        ({"layer_scale": True}, {"init_values": 0.5}),
        ({"registers": 4, "position": "patches"}, {"reg_tokens": 4, "no_embed_class": True}),
        ({"registers": 2, "layer_scale": True}, {"reg_tokens": 2, "init_values": 1.0}),
        ({"final_norm": "fc_norm"}, {"global_pool": "avg"}),
        ({"mlp": "swiglu"}, {"mlp_layer": SwiGLUPacked}),
        ({"position": "none"}, {"pos_embed": "none"}),
    ],
)
def test_a_model_with_the_same_parts_takes_every_tensor(written, change, build):
    path = written(**change)
    state, _ = load_backbone(path)
    model = timm_vit(mlp_ratio=state["blocks.0.mlp.fc1.bias"].shape[0] / 48, **build)
    report = load_into(model, path)
    own = model.state_dict()
    if "pos_embed" in own and own["pos_embed"].shape != state["pos_embed"].shape:  # a row for each register
        state["pos_embed"] = own["pos_embed"]
    assert own.keys() == state.keys()
    assert report.matched == sorted(state)
    assert all(torch.equal(own[k], state[k]) for k in own)


@pytest.mark.parametrize(
    ("change", "build", "what"),
    [
        ({"layer_scale": True}, {}, "layer scale"),
        ({"registers": 4}, {}, "4 register tokens"),
        ({"relative_position": True}, {}, "relative positions in every block"),
        ({"mlp": "swiglu"}, {}, "a SwiGLU MLP"),
        ({"final_norm": "fc_norm"}, {}, "a norm after pooling (fc_norm), not on all tokens (norm)"),
        ({}, {"pos_embed": "none"}, "position embeddings"),
        ({"layer_scale": True, "registers": 1}, {}, "1 register tokens and layer scale"),
    ],
)
def test_parts_without_a_place_are_refused_in_a_sentence(written, change, build, what):
    path, model = written(**change), timm_vit(**build)
    before = snapshot(model)
    with pytest.raises(UserError) as caught:
        load_into(model, path, optional=(".",))  # features depend on them: no exception is accepted
    assert str(caught.value).startswith(
        f"{path}: the encoder has {what}, which the model has no place for; configure the model with the same "
    )
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("registers", [0, 3])
def test_rows_of_the_position_table_never_change_a_feature(written, registers):
    """Class row kept, folded into the token, or filled up; registers with and without rows."""
    for position in ("class_row", "patches"):
        path = written(position=position, registers=registers)
        found = []
        for no_embed_class in (False, True):
            model = timm_vit(reg_tokens=registers, no_embed_class=no_embed_class)
            notes = load_into(model, path).notes
            folded = position == "class_row" and no_embed_class
            assert notes == (["the position of the class token is added to it"] if folded else [])
            found.append(features(model))
        torch.testing.assert_close(found[0], found[1], atol=1e-6, rtol=0)
        state, _ = load_backbone(path)  # timm alone is the reference for one of the two
        reference = timm_vit(reg_tokens=registers, no_embed_class=position == "patches" or registers > 0)
        if position == "class_row" and registers:
            state["cls_token"] = state["cls_token"] + state["pos_embed"][:, :1]
            state["pos_embed"] = state["pos_embed"][:, 1:]
        reference.load_state_dict(state)
        torch.testing.assert_close(features(reference), found[0], atol=1e-6, rtol=0)


def test_no_positions_in_the_file_means_zero_positions(written):
    model = timm_vit()
    report = load_into(model, written(position="none"))
    assert report.notes == ["no positions in the file: those of the model are zero"]
    assert (len(report.matched), report.total) == (29, 29)
    assert not model.pos_embed.any()
    without = timm_vit(pos_embed="none")
    load_into(without, written(position="none"))
    assert torch.equal(features(model), features(without))


@pytest.mark.parametrize("img_size", [32, 48, 24])
def test_relative_tables_of_a_dense_model(written, img_size):
    path = written(relative_position=True, position="none")
    dense = DenseViT(**{**DENSE, "img_size": img_size}, cls_token=True, rel_pos="table")
    report = load_into(dense, path, optional=OPTIONAL_KEYS)
    state, _ = load_backbone(path)
    side, tables = img_size // 8, [k for k in state if k.endswith("relative_position_bias_table")]
    for key in tables:
        expected = resize_rel_pos_table(state[key], (4, 4), (side, side))
        assert torch.equal(dense.state_dict()[key], expected)
    assert report.resized == ({} if side == 4 else dict.fromkeys(sorted(tables), f"4x4 to {side}x{side}"))
    if side != 4:
        assert (
            f"blocks.*.attn.relative_position_bias_table (2 times) resized from 4x4 to {side}x{side}"
            in str(report)
        )


def test_relative_tables_are_never_left_out_of_a_dense_model(written):
    """Its list of optional keys names them, since files need not have them; that is no leave to drop them."""
    dense = DenseViT(**DENSE, cls_token=True, rel_pos="none")
    with pytest.raises(
        UserError, match="relative positions in every block, which the model has no place for"
    ):
        load_into(dense, written(relative_position=True), optional=OPTIONAL_KEYS)


@pytest.mark.parametrize("size", [(16, 64), (32, 64), (24, 40)])
def test_grids_that_are_not_square(backbone_file, size):
    """Also 2x8, which has as many places as the file's 4x4 and once passed for it."""
    grid = (size[0] // 8, size[1] // 8)
    state, _ = load_backbone(backbone_file)
    expected = resize_pos_embed(state["pos_embed"], grid)
    theirs = timm_vit(img_size=size)
    ours = ImageNetViT(arch=MM_ARCH, img_size=size, patch_size=8, backbone_file=str(backbone_file))
    ours.init_weights()
    report = load_into(theirs, backbone_file)
    assert report.resized == {"pos_embed": f"4x4 to {grid[0]}x{grid[1]}"}
    assert torch.equal(theirs.pos_embed, expected)
    assert torch.equal(ours.pos_embed, expected)


def column_first(side, width):
    """MAE's fixed table: the first half of the channels tells the column, the second the row."""
    rows = [torch.zeros(width)]
    rates = [10000 ** (-4 * i / width) for i in range(width // 4)]
    for row in range(side):
        for column in range(side):
            waves = [
                f(torch.tensor(p * r)) for p in (column, row) for f in (torch.sin, torch.cos) for r in rates
            ]
            rows.append(torch.stack(waves))
    return torch.stack(rows)[None]


def test_a_column_first_table_is_taken_as_it_is(make_encoder, tmp_path):
    """Models of the suite would make the transposed table themselves; the file's must survive, bit by bit."""
    state, header = make_encoder()
    table = state["pos_embed"] = column_first(4, 48)
    path = tmp_path / "mae.safetensors"
    save_backbone(path, state, header)
    generated = CMAEViT(arch=MM_ARCH, img_size=32, patch_size=8)
    generated.init_weights()
    transposed = table[:, 1:].view(1, 4, 4, 48).transpose(1, 2).reshape(1, 16, 48)
    # The trap is real: this is what the encoder makes itself.
    torch.testing.assert_close(generated.pos_embed.data[:, 1:], transposed, atol=1e-5, rtol=0)
    assert (table[:, 1:] - transposed).abs().max() > 0.5
    load_into(generated, path, rename=timm_name)
    image = ImageNetViT(arch=MM_ARCH, img_size=32, patch_size=8, backbone_file=str(path))
    image.init_weights()
    dense = DenseViT(**DENSE, backbone_file=str(path))
    dense.init_weights()
    for model in (generated, image, dense):
        assert torch.equal(model.pos_embed, table)


def test_either_name_of_a_key_can_be_optional(backbone_file):
    """The norm after pooling is ``ln2`` in mmpretrain, whatever the renaming makes of it."""
    for rename in (timm_name, lambda k: re.sub(r"^ln2\.", "fc_norm.", timm_name(k))):
        vit = ImageNetViT(arch=MM_ARCH, img_size=32, patch_size=8, out_type="avg_featmap", final_norm=False)
        report = load_into(vit, backbone_file, rename=rename, optional=(r"^norm\.", r"^ln2\."))
        assert report.unexpected == ["norm.bias", "norm.weight"]
        assert len(report.missing) == 2


def test_the_log_file_has_every_name_and_the_screen_has_not(backbone_file, tmp_path, capsys):
    logger = MMLogger.get_instance("whole", log_file=str(tmp_path / "run.log"))
    try:
        report = load_into(timm_vit(num_classes=5), backbone_file, optional=(r"^head\.",))
        with pytest.raises(UserError):
            load_into(timm_vit(mlp_ratio=4.0), backbone_file)
    finally:
        for handler in logger.handlers:
            handler.close()
        MMLogger._instance_dict.pop("whole")
    assert capsys.readouterr().out == ""
    text = (tmp_path / "run.log").read_text()
    assert report.full() in text
    state, _ = load_backbone(backbone_file)
    assert all(f"\n  {key}\n" in text for key in [*state, "head.weight"])
    assert "shapes differ: 6" in text
    assert logging.getLevelName(logger.handlers[0].level) == "INFO"
