"""The canonical file: nothing is lost on the way, and every damage is named with its cure."""

import json
from dataclasses import fields, replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from cmae_mm.checkpoints import BackboneHeader, load_backbone, save_backbone
from cmae_mm.checkpoints import backbone_file as module
from cmae_mm.checkpoints.backbone_file import HEADER_KEY, expected_keys, expected_shape
from cmae_mm.checkpoints.header_fields import RULES
from cmae_mm.errors import UserError


@pytest.mark.parametrize("class_token", [True, False])
def test_round_trip_keeps_every_bit(make_encoder, tmp_path, class_token):
    state, header = make_encoder(class_token=class_token, channel_order="bgr", mean=(1.5, 2.0, 3.25))
    save_backbone(tmp_path / "new" / "a.safetensors", state, header)
    again, read = load_backbone(tmp_path / "new" / "a.safetensors")
    assert read == header
    assert again.keys() == state.keys()
    assert all(torch.equal(again[k], state[k]) for k in state)
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["a.safetensors"]


def test_safetensors_alone_reads_the_tensors(backbone_file, make_encoder):
    state, _ = make_encoder()
    assert all(torch.equal(v, state[k]) for k, v in load_file(backbone_file).items())


def rewrite(source, target, header_change=None, drop=(), add=()):
    """The file with another header or other keys, written around the suite's own checks."""
    state, header = load_backbone(source)
    values = json.loads(header.to_json()) | (header_change or {})
    tensors = {k: v for k, v in state.items() if k not in drop} | {k: torch.zeros(1) for k in add}
    save_file(tensors, str(target), metadata={HEADER_KEY: json.dumps(values)})
    return target


def damaged(kind, source, path):
    if kind == "missing key":
        rewrite(source, path, drop=["blocks.1.attn.qkv.weight"])
    elif kind == "unexpected key":
        rewrite(source, path, add=["head.weight"])
    elif kind == "truncated":
        path.write_bytes(source.read_bytes()[:-1000])
    elif kind == "cut in the header":
        path.write_bytes(source.read_bytes()[:20])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "pth":
        torch.save({"state_dict": {}}, path)
    elif kind == "no header":
        save_file(load_file(source), str(path))
    elif kind == "unknown field":
        rewrite(source, path, {"rotary": True})
    elif kind == "newer version":
        rewrite(source, path, {"format_version": 99})
    elif kind == "header not JSON":
        save_file(load_file(source), str(path), metadata={HEADER_KEY: "{"})
    elif kind == "header no object":
        save_file(load_file(source), str(path), metadata={HEADER_KEY: "[]"})
    return path


@pytest.mark.parametrize(
    ("kind", "what", "cure"),
    [
        ("missing key", r"1 keys missing \['blocks.1.attn.qkv.weight'\]", "export it again"),
        ("unexpected key", r"1 unexpected \['head.weight'\]", "export it again"),
        ("truncated", "not a readable safetensors file", "cmae-mm import"),
        ("cut in the header", "not a readable safetensors file", "cmae-mm import"),
        ("empty", "not a readable safetensors file", "cmae-mm import"),
        ("pth", "not a readable safetensors file", "cmae-mm import CHECKPOINT --out FILE"),
        ("no header", "no cmae_mm header", "export it again"),
        ("unknown field", r"unknown fields \['rotary'\]", "update cmae_mm"),
        ("newer version", "format version 99", "update cmae_mm"),
        ("header not JSON", "not JSON", "export the file again"),
        ("header no object", "not a JSON object", "export the file again"),
        ("nothing", "no such backbone file", "cmae-mm import"),
    ],
)
def test_damage_is_named_with_its_cure(backbone_file, tmp_path, kind, what, cure):
    path = damaged(kind, backbone_file, tmp_path / "bad.safetensors")
    with pytest.raises(UserError, match=what) as caught:
        load_backbone(path)
    text = str(caught.value)
    assert text.startswith(str(path))
    assert cure in text
    assert "\n" not in text


def test_writing_refuses_what_reading_would(make_encoder, tmp_path):
    state, header = make_encoder()
    for broken, what in (
        ({k: v for k, v in state.items() if k != "cls_token"}, r"missing \['cls_token'\]"),
        ({**state, "extra": torch.zeros(1)}, r"unexpected \['extra'\]"),
        (
            {**state, "norm.bias": torch.full((48,), float("nan"))},
            "norm.bias holds values that are not finite",
        ),
    ):
        with pytest.raises(UserError, match=what):
            save_backbone(tmp_path / "x.safetensors", broken, header)
    assert not list(tmp_path.iterdir())


def test_a_failed_write_keeps_the_old_file(backbone_file, make_encoder, tmp_path):
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(UserError, match=r"folder\.safetensors: cannot be written"):
        save_backbone(tmp_path / "folder.safetensors", *make_encoder())
    assert [p.name for p in tmp_path.iterdir()] == ["folder.safetensors"]


def test_incomplete_header_names_the_field():
    with pytest.raises(UserError, match=r"here: the header is incomplete.*'width'"):
        BackboneHeader.from_dict(
            {"method": "x", "depth": 1, "heads": 1, "hidden": 1, "patch": 1, "image_size": 1}, "here"
        )


LIES = {
    "method": [3, "a\nb", "x" * 1001],
    "width": [-48, 0, 48.0, "48", True, None, 10**30, 10**5000],
    "depth": [0, -1, 10**9],
    "heads": [5, 0, [3]],  # 5 heads do not divide 48
    "hidden": [-1, 2**40],
    "patch": [0, 33],  # more than the image
    "image_size": [0, 10**7],
    "ln_eps": [0, 1, -1e-6, "1e-6", float("nan"), True],
    "class_token": [1, "yes", None],
    "position": ["row", "", 0],
    "registers": [-1, 10**6],
    "layer_scale": [0],
    "relative_position": ["no"],
    "final_norm": ["ln", None],
    "mlp": ["relu"],
    "pooling": ["max"],
    "mean": [1.0, [1, 2], [1, 2, "3"], [1, 2, float("inf")], [1, 2, True], {"r": 1}],
    "std": [[1, 1, 0], [1, 1, -1], [1, 1, float("nan")]],
    "channel_order": ["RGB", ["r", "g", "b"]],
    "epochs": [-1, 1.5, "300"],
    "source": [None, "\x1b[31mred", "\ud800"],
    "source_sha256": [0],
    "licence": [["MIT"]],
    "family": [None],
    "branch": [1],
    "dropped": ["head", [1], ["a"] * 1001, [["a"]]],
    "transforms": [None, ["\n"]],
    "kind": ["resnet", 1, "swin"],
    "stage_widths": [[0], "48", [48], [1] * 9],
    "stage_depths": [[1001], [1.5], [2]],
    "stage_heads": [[-1], [3]],
    "stage_hidden": [[2**21], [96]],
    "stage_strides": [[0], [8]],
    "stage_windows": [[True], [4]],
    "format_version": [0, -1, "2", True, 2.0],
}


def test_every_field_has_a_rule_and_a_lie():
    assert set(RULES) == set(LIES) == {field.name for field in fields(BackboneHeader)}


@pytest.mark.parametrize("field", sorted(LIES))
def test_lies_of_the_header_are_named(backbone_file, field):
    for lie in LIES[field]:
        values = json.loads(load_backbone(backbone_file)[1].to_json()) | {field: lie}
        with pytest.raises(
            UserError, match=r"^here: the header is wrong: .*; make the file again$"
        ) as caught:
            BackboneHeader.from_dict(values, "here")
        assert field in str(caught.value)
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 300


@pytest.mark.parametrize(("field", "lie"), [("width", 96), ("patch", 4), ("hidden", 95), ("image_size", 40)])
def test_shapes_must_be_those_of_the_header(backbone_file, make_encoder, tmp_path, field, lie):
    """Each of these lies is a possible encoder, but not the one in the file."""
    path = rewrite(backbone_file, tmp_path / "x.safetensors", {field: lie})
    with pytest.raises(UserError, match=r"has the shape \(.*\), but the header describes \(.*\)"):
        load_backbone(path)
    state, header = make_encoder()
    with pytest.raises(UserError, match="but the header describes"):
        save_backbone(tmp_path / "y.safetensors", state, replace(header, **{field: lie}))
    assert not (tmp_path / "y.safetensors").exists()


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"class_token": False},
        {"position": "patches"},
        {"position": "none"},
        {"registers": 4, "position": "patches"},
        {"layer_scale": True, "mlp": "swiglu"},
        {"relative_position": True, "final_norm": "fc_norm"},
    ],
    ids=str,
)
def test_expected_shapes_are_those_of_timm(change):
    """The oracle is timm's model, built with the arguments that mean the same."""
    from timm.layers import Mlp, SwiGLUPacked
    from timm.models.beit import Beit
    from timm.models.vision_transformer import VisionTransformer

    header = BackboneHeader("x", width=48, depth=2, heads=3, hidden=96, patch=8, image_size=40)
    header = replace(header, **change)
    common = dict(img_size=40, patch_size=8, embed_dim=48, depth=2, num_heads=3, mlp_ratio=2, num_classes=0)
    if header.relative_position:
        model = Beit(use_rel_pos_bias=True, **common)
    else:
        model = VisionTransformer(
            class_token=header.class_token,
            global_pool="",
            pos_embed="none" if header.position == "none" else "learn",
            no_embed_class=header.position == "patches",
            reg_tokens=header.registers,
            init_values=1.0 if header.layer_scale else None,
            mlp_layer=SwiGLUPacked if header.mlp == "swiglu" else Mlp,
            **common,
        )
    own = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    for key in [k for k in own if k.endswith("q_bias")]:  # timm's Beit has no bias of the keys
        del own[key], own[key.replace("q_bias", "v_bias")]
        own[key.replace("q_bias", "qkv.bias")] = (3 * 48,)
    assert {k: expected_shape(k, header) for k in expected_keys(header)} == own


@pytest.mark.parametrize(
    "dtype", [torch.int32, torch.bool, torch.complex64, torch.uint8, torch.float8_e4m3fn]
)
def test_weights_are_real_numbers(make_encoder, tmp_path, dtype):
    state, header = make_encoder()
    state["norm.bias"] = torch.zeros(48).to(dtype)
    with pytest.raises(UserError, match=r"norm\.bias holds torch\.\w+ values, but weights are real numbers"):
        save_backbone(tmp_path / "x.safetensors", state, header)
    save_file(state, str(tmp_path / "x.safetensors"), metadata={HEADER_KEY: header.to_json()})
    with pytest.raises(UserError, match=r"norm\.bias holds \w+ values, but weights are real numbers"):
        load_backbone(tmp_path / "x.safetensors")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_real_types_become_float32(make_encoder, tmp_path, dtype):
    state, header = make_encoder()
    exact = {k: v.to(dtype).float() for k, v in state.items()}
    save_backbone(tmp_path / "written.safetensors", {k: v.to(dtype) for k, v in state.items()}, header)
    save_file(
        {k: v.to(dtype) for k, v in state.items()},
        str(tmp_path / "foreign.safetensors"),
        metadata={HEADER_KEY: header.to_json()},
    )
    for name in ("written", "foreign"):
        again, _ = load_backbone(tmp_path / f"{name}.safetensors")
        assert all(again[k].dtype == torch.float32 and torch.equal(again[k], exact[k]) for k in exact)


def test_values_that_float32_cannot_hold_are_not_written(make_encoder, tmp_path):
    state, header = make_encoder()
    state["norm.bias"] = torch.full((48,), 1e300, dtype=torch.float64)
    with pytest.raises(UserError, match="not finite"):
        save_backbone(tmp_path / "x.safetensors", state, header)


def test_views_and_shared_memory_are_written_as_values(make_encoder, tmp_path):
    """Slices, transposed and repeated tensors, as importers make them, come back bit by bit."""
    state, header = make_encoder(hidden=48)
    shared = torch.arange(48.0 * 48).view(48, 48)
    state["blocks.0.attn.proj.weight"] = shared.t()
    state["blocks.1.attn.proj.weight"] = shared
    state["blocks.0.mlp.fc1.weight"] = shared
    state["blocks.0.mlp.fc1.bias"] = shared[3]
    state["norm.weight"] = torch.ones(1).expand(48)
    state["norm.bias"].requires_grad_()
    save_backbone(tmp_path / "x.safetensors", state, header)
    again, _ = load_backbone(tmp_path / "x.safetensors")
    assert all(torch.equal(again[k], v) for k, v in state.items())


def test_plain_tensors_are_written_from_where_they_are(make_encoder, tmp_path, monkeypatch):
    state, header = make_encoder()
    written = {}
    monkeypatch.setattr(module, "save_file", lambda tensors, *a, **k: written.update(tensors))
    monkeypatch.setattr(module.os, "replace", lambda *a: None)
    save_backbone(tmp_path / "x.safetensors", state, header)
    assert all(written[k].data_ptr() == v.data_ptr() for k, v in state.items())


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("[" * 100_000, "not JSON"),
        ('{"width": ' + "9" * 10_000 + "}", "not JSON"),
        ('{"method": "' + "x" * (1 << 20) + '"}', "has 1048590 characters"),
        ('{"' + "x" * 1000 + '": 1}', "unknown fields"),
        ('{"format_version": 4}', "update cmae_mm"),
        ("null", "not a JSON object"),
    ],
    ids=["nested", "digits", "long", "long name", "newer", "null"],
)
def test_headers_that_are_no_headers(backbone_file, tmp_path, text, what):
    save_file(load_file(backbone_file), str(tmp_path / "x.safetensors"), metadata={HEADER_KEY: text})
    with pytest.raises(UserError, match=what) as caught:
        load_backbone(tmp_path / "x.safetensors")
    assert len(str(caught.value)) < 400


def test_headers_of_earlier_versions_are_read(backbone_file, tmp_path):
    """Version 2 had no kinds and no stages."""
    values = json.loads(load_backbone(backbone_file)[1].to_json())
    old = {k: v for k, v in values.items() if k != "kind" and not k.startswith("stage_")} | {
        "format_version": 2
    }
    save_file(
        load_file(backbone_file), str(tmp_path / "x.safetensors"), metadata={HEADER_KEY: json.dumps(old)}
    )
    header = load_backbone(tmp_path / "x.safetensors")[1]
    assert (header.kind, header.stage_widths, header.format_version) == ("vit", (), 2)


def test_a_header_that_is_wrong_is_not_written(make_encoder, tmp_path):
    state, header = make_encoder()
    for change in ({"method": "two\nlines"}, {"mean": [1, 2, 3]}, {"epochs": 3.0}):
        with pytest.raises(UserError, match="the header is wrong"):
            save_backbone(tmp_path / "x.safetensors", state, replace(header, **change))
    assert not list(tmp_path.iterdir())


def test_names_of_depth_beyond_the_header(backbone_file, tmp_path):
    """A header of fewer blocks must not load a part of the encoder."""
    with pytest.raises(UserError, match="not a whole encoder of 1 blocks"):
        load_backbone(rewrite(backbone_file, tmp_path / "x.safetensors", {"depth": 1}))
