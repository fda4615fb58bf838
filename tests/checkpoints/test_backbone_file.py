"""The canonical file: nothing is lost on the way, and every damage is named with its cure."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from cmae_mm.checkpoints import BackboneHeader, load_backbone, save_backbone
from cmae_mm.checkpoints.backbone_file import HEADER_KEY
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
        ("truncated", "not a readable safetensors file", "cmae-mm export"),
        ("cut in the header", "not a readable safetensors file", "cmae-mm export"),
        ("empty", "not a readable safetensors file", "cmae-mm export"),
        ("pth", "not a readable safetensors file", "cmae-mm export CHECKPOINT --out FILE"),
        ("no header", "no cmae_mm header", "export it again"),
        ("unknown field", r"unknown fields \['rotary'\]", "update cmae_mm"),
        ("newer version", "format version 99", "update cmae_mm"),
        ("header not JSON", "not JSON", "export the file again"),
        ("header no object", "not a JSON object", "export the file again"),
        ("nothing", "no such backbone file", "cmae-mm export"),
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
