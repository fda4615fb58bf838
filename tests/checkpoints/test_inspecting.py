"""The report on a file of weights: what is in it is said, what is odd is said, and a healthy file has no warning."""

import math
import re

import pytest
import torch
from safetensors.torch import load_file, save_file

from cmae_mm.checkpoints import save_backbone
from cmae_mm.checkpoints.backbone_file import HEADER_KEY
from cmae_mm.checkpoints.inspecting import inspect_file
from cmae_mm.checkpoints.position_tables import sincos_table
from cmae_mm.checkpoints.tensor_health import look_at, odd_blocks
from cmae_mm.errors import UserError


def warnings(report):
    return [line[2:] for line in report.splitlines() if line.startswith("!")]


def line(report, start):
    (found,) = [line for line in report.splitlines() if line.strip().startswith(start)]
    return found.strip()


def number(state):
    """Parameters, counted one tensor at a time."""
    return sum(math.prod(v.shape) for v in state.values())


@pytest.mark.parametrize("depth", [1, 2, 3, 12])
def test_a_healthy_backbone_file(make_encoder, tmp_path, depth):
    state, header = make_encoder(depth=depth, epochs=300, family="mae", mean=(1.5, 2.0, 3.25))
    save_backbone(tmp_path / "x.safetensors", state, header)
    report = inspect_file(tmp_path / "x.safetensors")
    assert warnings(report) == []
    size = (tmp_path / "x.safetensors").stat().st_size / 1e6
    assert report.splitlines()[0] == f"{tmp_path}/x.safetensors: backbone file, {size:.1f} MB"
    for field in ("method: test", "width: 48", f"depth: {depth}", "epochs: 300", "mean: (1.5, 2.0, 3.25)"):
        assert line(report, field.split(":")[0] + ":") == field
    assert "licence" not in report  # empty
    count = f"{number(state):,}"
    assert (
        line(report, "tensors:")
        == f"tensors: {len(state)} tensors, {count} parameters ({len(state)} float32)"
    )
    assert line(report, "cls_token") == f"cls_token 1 x 1 x 48, norm {float(state['cls_token'].norm()):.4g}"
    assert line(report, "attn.qkv.weight") == "attn.qkv.weight 144 x 48"
    norms = []
    for i in range(depth):
        inside = [v for k, v in state.items() if k.startswith(f"blocks.{i}.")]
        norms.append(f"{float(torch.cat([v.flatten() for v in inside]).double().norm()):.4g}")
    assert line(report, "norm ") == "norm " + " ".join(norms)
    block = f"{number({k: v for k, v in state.items() if k.startswith('blocks.0.')}):,}"
    numbers = {1: "0", 2: "0, 1"}.get(depth, f"0 to {depth - 1}, {depth} blocks")
    assert line(report, "blocks") == f"blocks {numbers} of {block} parameters{' each' * (depth > 1)}"


@pytest.mark.parametrize("first", ["row", "col", "learned"])
@pytest.mark.parametrize("class_token", [True, False])
def test_the_position_table(make_encoder, tmp_path, first, class_token):
    state, header = make_encoder(class_token=class_token)
    if first != "learned":
        table = sincos_table(header.grid, header.width, first)
        state["pos_embed"] = torch.cat([torch.zeros(1, int(class_token), 48), table], dim=1)
    save_backbone(tmp_path / "x.safetensors", state, header)
    words = {"row": "sine and cosine, row first", "col": "sine and cosine, column first"}.get(first, first)
    assert f"positions pos_embed: {words}" in inspect_file(tmp_path / "x.safetensors")


def test_odd_tensors_are_named(make_encoder, tmp_path):
    state, _ = make_encoder(depth=4)
    state["blocks.0.attn.proj.bias"][3:5] = float("nan")
    state["blocks.1.attn.proj.bias"][0] = float("-inf")
    state["cls_token"].zero_()
    state["blocks.2.mlp.fc1.bias"].fill_(0.25)
    state["blocks.3.mlp.fc2.weight"].mul_(1000)
    state["steps"] = torch.arange(3)
    state["bn.num_batches_tracked"] = torch.tensor(7)
    save_file(state, tmp_path / "x.safetensors")
    found = warnings(inspect_file(tmp_path / "x.safetensors"))
    assert found[0].startswith("blocks.0.attn.proj.bias: 2 of 48 values are not finite")
    assert found[1].startswith("blocks.1.attn.proj.bias: 1 of 48 values are not finite")
    assert found[2:5] == [
        "1 tensors are all zero (cls_token)",
        "1 tensors hold a single value (blocks.2.mlp.fc1.bias)",
        "1 tensors hold no real numbers (steps)",
    ]
    assert re.fullmatch(r"blocks\.3 has a norm of \S+, \d+ times the median of its like", found[5])
    assert len(found) == 6


def test_an_untrained_model_is_seen(tmp_path):
    from timm.models.vision_transformer import VisionTransformer

    torch.manual_seed(0)
    model = VisionTransformer(32, 8, embed_dim=48, depth=2, num_heads=3, num_classes=0)
    torch.save({"model": model.state_dict()}, tmp_path / "x.pth")
    report = inspect_file(tmp_path / "x.pth")
    assert (
        warnings(report)[0]
        == "all 10 tensors of the norms have weights of 1 and biases of 0: it looks untrained"
    )
    model.norm.bias.data[0] = 0.1  # one number that training changed
    torch.save({"model": model.state_dict()}, tmp_path / "y.pth")
    assert not any("untrained" in w for w in warnings(inspect_file(tmp_path / "y.pth")))


def test_blocks_that_are_copies_of_each_other():
    assert odd_blocks({"b.0": 3.0, "b.1": 3.5, "b.2": 3.0}) == [
        "b.2 has exactly the norm of b.0: it may be a copy"
    ]
    assert odd_blocks({"b.0": 1.0, "b.1": 1.1, "b.2": 9.0}) == []
    assert odd_blocks({}) == []


def test_a_whole_training_checkpoint(make_encoder, tmp_path):
    state, _ = make_encoder()
    content = {
        "state_dict": {f"backbone.{k}": v for k, v in state.items()},
        "epoch": 3,
        "note": "two\nlines \x1b[31m",
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1}]},
        "ema": {"w.weight": torch.ones(2, 2, dtype=torch.float16)},
        "step": torch.tensor(5.0),
    }
    torch.save(content, tmp_path / "x.pth")
    report = inspect_file(tmp_path / "x.pth")
    assert ": checkpoint, " in report.splitlines()[0]
    assert line(report, "epoch") == "epoch: 3"
    assert line(report, "note") == r"note: 'two\nlines \x1b[31m'"
    assert line(report, "optimizer") == "optimizer: 2 entries"
    assert line(report, "state_dict: 30 tensors").endswith("(30 float32)")
    assert line(report, "ema: 1 tensors") == "ema: 1 tensors, 4 parameters (1 float16)"
    assert line(report, "step one value") == "step one value, norm 5"
    assert "exp_avg" not in report
    assert line(report, "backbone.blocks 0, 1") == "backbone.blocks 0, 1 of 18,960 parameters each"
    assert warnings(report) == ["1 tensors hold a single value (w.weight)"]


def test_families_that_fit(make_encoder, tmp_path):
    state, _ = make_encoder()
    torch.save({"model": state}, tmp_path / "x.pth")
    save_file(state, tmp_path / "x.safetensors")
    for name in ("x.pth", "x.safetensors"):
        assert "timm-vit" in line(inspect_file(tmp_path / name), "could be:")
    torch.save({"a": torch.zeros(3, 3)}, tmp_path / "y.pth")
    assert line(inspect_file(tmp_path / "y.pth"), "could be:") == "could be: no family that can be imported"


def test_a_backbone_file_that_is_not_what_it_says(backbone_file, tmp_path):
    """Even then the report comes, with the fault as a warning."""
    state, header = load_file(backbone_file), None
    from cmae_mm.checkpoints import load_backbone

    header = load_backbone(backbone_file)[1].to_json()
    for text, words in (
        (header.replace('"width": 48', '"width": 96'), "but the header describes"),
        (header.replace('"width": 48', '"width": -1'), "width must be a whole number"),
        ("{", "not JSON"),
    ):
        save_file(state, tmp_path / "x.safetensors", metadata={HEADER_KEY: text})
        report = inspect_file(tmp_path / "x.safetensors")
        assert words in warnings(report)[0]
        assert "tensors: 30 tensors" in report


def test_other_content_of_safetensors(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "x.safetensors", metadata={"format": "pt", "by": "x" * 500})
    report = inspect_file(tmp_path / "x.safetensors")
    assert line(report, "format") == "format: pt"
    assert len(line(report, "by:")) < 90


def test_long_lists_are_cut(tmp_path):
    torch.save({"model": {f"t{i}": torch.randn(2) for i in range(100)}}, tmp_path / "x.pth")
    report = inspect_file(tmp_path / "x.pth")
    assert "  ... 60 more" in report
    assert len(report.splitlines()) < 60


@pytest.mark.parametrize("kind", ["missing", "cut", "garbage", "empty", "folder"])
def test_files_that_are_no_weights(backbone_file, tmp_path, kind):
    path = tmp_path / "x"
    if kind == "cut":
        path.write_bytes(backbone_file.read_bytes()[:-100])
    elif kind in ("garbage", "empty"):
        path.write_bytes(b"\x00garbage" * (kind == "garbage"))
    elif kind == "folder":
        path.mkdir()
    with pytest.raises(UserError) as caught:
        inspect_file(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_no_tensors_is_said(tmp_path):
    torch.save({"epoch": 1, "meta": {"a": 2}}, tmp_path / "x.pth")
    assert warnings(inspect_file(tmp_path / "x.pth")) == ["there are no tensors in it"]


@pytest.mark.parametrize(
    "values",
    [
        torch.tensor([1.0, -3.0, float("nan"), float("inf")]),
        torch.tensor([True, False]),
        torch.tensor([3 + 4j]),
        torch.zeros(0),
        torch.tensor(2, dtype=torch.int64),
        torch.tensor([1.5, -2.5], dtype=torch.bfloat16),
        torch.tensor([[1.5], [0.5]]).expand(2, 3),
    ],
    ids=str,
)
def test_measures_against_a_loop(values):
    look = look_at("x", values)
    plain = [abs(v) if isinstance(v, complex) else float(v) for v in values.flatten().tolist()]
    finite = [v for v in plain if math.isfinite(v)]
    assert look.bad == len(plain) - len(finite)
    assert look.norm == pytest.approx(math.sqrt(sum(v * v for v in finite)), rel=1e-12)
    assert (look.low, look.high) == ((min(finite), max(finite)) if finite else (0, 0))
    assert look.constant == (len(plain) > 1 and len(set(finite)) == 1 and not look.bad)
    assert look.count == len(plain)
