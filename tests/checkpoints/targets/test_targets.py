"""Every way out: strict loading into the library's own model, and the features of the canonical tensors.

The oracle for features is a transformer written out below from the meaning of the header's fields. It shares no code
with the suite or a library, and is itself held against timm.
"""

import json
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

import cmae_mm.compat  # noqa: F401  (before the libraries)
from cmae_mm.checkpoints.targets import (
    build_timm,
    hf_config,
    mmpretrain_config,
    mmseg_config,
    to_hf,
    to_mmdet,
    to_mmpretrain,
    to_mmseg,
    to_timm,
)
from cmae_mm.checkpoints.targets.parts import relative_index

REL = dict(relative_position=True, final_norm="fc_norm")
CASES = {
    "plain": {},
    "no class token": dict(class_token=False),
    "rows for patches": dict(position="patches"),
    "no positions": dict(position="none"),
    "registers": dict(registers=4, position="patches"),
    "registers, class row": dict(registers=4, layer_scale=True),
    "layer scale": dict(layer_scale=True),
    "fc_norm": dict(final_norm="fc_norm"),
    "no final norm": dict(final_norm="none"),
    "swiglu": dict(mlp="swiglu", hidden=128, layer_scale=True),
    "swiglu, odd": dict(mlp="swiglu", hidden=100),
    "beit": dict(**REL, position="none", layer_scale=True),
    "beit, class row": dict(relative_position=True),
    "beit, rows for patches": dict(**REL, position="patches"),
    "beit, no class token": dict(**REL, class_token=False),
    "beit, registers": dict(**REL, registers=1),
    "narrow MLP": dict(hidden=72),
}


def relative_bias(table, grid, class_token):
    """(heads, N, N), pair by pair."""
    span, extra = 2 * grid - 1, int(class_token)
    bias = torch.zeros(table.shape[1], grid**2 + extra, grid**2 + extra)
    for i in range(grid**2):
        for j in range(grid**2):
            row = (i // grid - j // grid + grid - 1) * span + (i % grid - j % grid + grid - 1)
            bias[:, i + extra, j + extra] = table[row]
    if class_token:
        bias[:, 0, 1:] = table[span**2][:, None]
        bias[:, 1:, 0] = table[span**2 + 1][:, None]
        bias[:, 0, 0] = table[span**2 + 2]
    return bias


def reference(state, header, images):
    """Tokens before the norm (prefix, then patches), tokens after it, and the pooled patches after ``fc_norm``."""
    width, heads, grid = header.width, header.heads, header.image_size // header.patch

    def norm(x, name):
        return F.layer_norm(x, (width,), state[f"{name}.weight"], state[f"{name}.bias"], header.ln_eps)

    def linear(x, name):
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    stem = F.unfold(images, header.patch, stride=header.patch).transpose(1, 2)
    patches = stem @ state["patch_embed.proj.weight"].reshape(width, -1).T + state["patch_embed.proj.bias"]
    table = state.get("pos_embed", torch.zeros(1, grid**2, width))
    prefix = []
    if header.class_token:
        row = table[:, :1] if header.position == "class_row" else 0
        prefix.append((state["cls_token"] + row).expand(len(images), -1, -1))
    if header.registers:
        prefix.append(state["reg_token"].expand(len(images), -1, -1))
    x = torch.cat([*prefix, patches + table[:, -(grid**2) :]], dim=1)
    for i in range(header.depth):
        block = f"blocks.{i}."
        qkv = linear(norm(x, block + "norm1"), block + "attn.qkv")
        q, k, v = (p.unflatten(-1, (heads, -1)).transpose(1, 2) for p in qkv.split(width, dim=-1))
        logits = q @ k.transpose(-1, -2) * (width // heads) ** -0.5
        if header.relative_position:
            logits = logits + relative_bias(
                state[block + "attn.relative_position_bias_table"], grid, header.class_token
            )
        mixed = linear((logits.softmax(-1) @ v).transpose(1, 2).flatten(2), block + "attn.proj")
        x = x + mixed * state.get(block + "ls1.gamma", torch.ones(width))
        hidden = linear(norm(x, block + "norm2"), block + "mlp.fc1")
        if header.mlp == "swiglu":
            gate, value = hidden.chunk(2, dim=-1)
            hidden = gate * torch.sigmoid(gate) * value
        else:
            hidden = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
        x = x + linear(hidden, block + "mlp.fc2") * state.get(block + "ls2.gamma", torch.ones(width))
    normed = norm(x, "norm") if header.final_norm == "norm" else x
    pooled = norm(x[:, -(grid**2) :].mean(1), "fc_norm") if header.final_norm == "fc_norm" else None
    return x, normed, pooled


def images():
    return torch.randn(2, 3, 40, 40, generator=torch.Generator().manual_seed(1))


def load(model, state):
    """Strictly, and without the library reshaping a tensor in silence."""
    own = model.state_dict()
    assert {k: tuple(v.shape) for k, v in state.items()} == {k: tuple(v.shape) for k, v in own.items()}
    model.load_state_dict(state, strict=True)
    model.train(False)
    return model


def maps(tokens):
    """(N, L, C) patch tokens to (N, C, H, W)."""
    return tokens[:, -25:].transpose(1, 2).unflatten(2, (5, 5))


def assert_same(ours, theirs):
    assert ours.shape == theirs.shape
    assert float((ours - theirs).abs().max()) <= 1e-5
    assert float(theirs.std()) > 0.1  # not a constant


def accepted(names):
    return [(name, CASES[name]) for name in names]


TIMM = [n for n in CASES if n not in ("beit, no class token", "beit, registers")]


@pytest.mark.parametrize(("name", "change"), accepted(TIMM))
@torch.no_grad()
def test_timm(encoder, name, change):
    state, header = encoder(**change)
    model = load(build_timm(header), to_timm(state, header))
    _, normed, pooled = reference(state, header, images())
    assert_same(model.forward_features(images()), normed)
    if pooled is not None:
        assert_same(model(images()), pooled)


@torch.no_grad()
def test_a_plain_file_is_timm_as_it_is(encoder):
    """The oracle of all other tests, and the identity, against the library alone."""
    from timm.models.vision_transformer import VisionTransformer

    state, header = encoder()
    model = VisionTransformer(
        40,
        8,
        embed_dim=48,
        depth=2,
        num_heads=3,
        mlp_ratio=2,
        num_classes=0,
        norm_layer=partial(nn.LayerNorm, eps=1e-5),
    )
    load(model, state)
    assert_same(model.forward_features(images()), reference(state, header, images())[1])
    assert to_timm(state, header) == state


MMPRETRAIN = [n for n in TIMM if not n.startswith("registers") and n != "swiglu, odd"]


@pytest.mark.parametrize(("name", "change"), accepted(MMPRETRAIN))
@torch.no_grad()
def test_mmpretrain(encoder, name, change):
    from mmpretrain.registry import MODELS

    state, header = encoder(**change)
    config = mmpretrain_config(header)
    if header.final_norm != "fc_norm":
        config["out_type"] = "raw"
    model = load(MODELS.build(config), to_mmpretrain(state, header))
    _, normed, pooled = reference(state, header, images())
    assert_same(model(images())[-1], normed if pooled is None else pooled)


@pytest.mark.parametrize(("pooling", "out"), [("cls", lambda x: x[:, 0]), ("avg", maps)])
@torch.no_grad()
def test_mmpretrain_gives_what_the_method_pools(encoder, pooling, out):
    from mmpretrain.registry import MODELS

    state, header = encoder(pooling=pooling)
    model = load(MODELS.build(mmpretrain_config(header)), to_mmpretrain(state, header))
    assert_same(model(images())[-1], out(reference(state, header, images())[1]))


ALL_MMSEG = ("registers", "registers, class row", "swiglu", "swiglu, odd", "beit, registers", "narrow MLP")
MMSEG = {
    "MAE": [n for n in CASES if n not in (*ALL_MMSEG, "no class token", "beit, no class token")],
    "BEiT": ["no positions", "beit"],
    "VisionTransformer": [
        n for n in CASES if n not in (*ALL_MMSEG, "layer scale") and not n.startswith("beit")
    ],
}


@pytest.mark.parametrize(("backbone", "name"), [(b, n) for b, names in MMSEG.items() for n in names])
@torch.no_grad()
def test_mmseg(encoder, backbone, name):
    from mmseg.registry import MODELS

    state, header = encoder(**CASES[name])
    model = load(MODELS.build(mmseg_config(header, backbone)), to_mmseg(state, header, backbone))
    raw, normed, _ = reference(state, header, images())
    assert_same(model(images())[-1], maps(raw))
    if header.final_norm == "norm":
        model = MODELS.build(mmseg_config(header, backbone, final_norm=True))
        load(model, to_mmseg(state, header, backbone, final_norm=True))
        assert_same(model(images())[-1], maps(normed))


MMDET = ["plain", "no class token", "rows for patches", "fc_norm", "no final norm", "narrow MLP"]


@pytest.mark.parametrize("name", MMDET)
@torch.no_grad()
def test_mmdet(encoder, name):
    """ViTDet is no part of the package; this suite's own, which is held against it, stands in."""
    from cmae_mm.transfer.coco import CMAEViTDet

    state, header = encoder(**CASES[name])
    ratio = header.hidden / header.width
    size = dict(img_size=40, patch_size=8, embed_dims=48, depth=2, num_heads=3, mlp_ratio=ratio)
    model = CMAEViTDet(**size, pretrain_img_size=40, window_blocks=())
    exported = to_mmdet(state, header, sides=(5, 5))
    load(model, exported)
    for norm in [m for m in model.modules() if isinstance(m, nn.LayerNorm)]:
        norm.eps = header.ln_eps
    alone = {k: v for k, v in state.items() if k != "cls_token"}  # no class token takes part
    raw, _, _ = reference(alone, replace(header, class_token=False, position="patches"), images())
    assert_same(model(images())[-1], maps(raw))
    left = {k for k in exported if "rel_pos" in k}
    assert to_mmdet(state, header).keys() == exported.keys() - left
    assert len(left) == 4


HF = [
    n
    for n in CASES
    if n
    not in (
        "no class token",
        "fc_norm",
        "no final norm",
        "swiglu, odd",
        "beit, no class token",
        "beit, registers",
    )
]


@pytest.mark.parametrize("name", HF)
@torch.no_grad()
def test_transformers(encoder, name, tmp_path):
    transformers = pytest.importorskip("transformers")
    state, header = encoder(**CASES[name])
    (tmp_path / "config.json").write_text(json.dumps(hf_config(header)))
    save_file(to_hf(state, header), tmp_path / "model.safetensors", metadata={"format": "pt"})
    kind = getattr(transformers, hf_config(header)["architectures"][0])
    pool = {} if "Dinov2" in kind.__name__ else {"add_pooling_layer": header.final_norm == "fc_norm"}
    model, info = kind.from_pretrained(tmp_path, output_loading_info=True, **pool)
    assert not any(info.values())
    _, normed, pooled = reference(state, header, images())
    out = model.eval()(images())
    assert_same(out.last_hidden_state, normed)
    if pooled is not None:
        assert_same(out.pooler_output, pooled)


@pytest.mark.parametrize("grid", [1, 2, 5])
def test_the_index_of_relative_positions(grid):
    """Against the buffers of two libraries."""
    from mmpretrain.models.utils import BEiTAttention
    from timm.models.beit import gen_relative_position_index

    assert torch.equal(relative_index(grid), gen_relative_position_index((grid, grid)))
    theirs = BEiTAttention(48, 3, (grid, grid), True).relative_position_index
    assert torch.equal(relative_index(grid), theirs)


@torch.no_grad()
def test_the_comparison_can_fail(encoder):
    """A change of one tensor, of the order of query and key, or of the epsilon is seen."""
    state, header = encoder()
    right = reference(state, header, images())[1]
    wrong = dict(state)
    wrong["blocks.1.attn.qkv.weight"] = state["blocks.1.attn.qkv.weight"].roll(48, 0)
    model = load(build_timm(header), to_timm(wrong, header))
    assert float((model.forward_features(images()) - right).abs().max()) > 1e-2
    for key in ("blocks.0.mlp.fc1.bias", "pos_embed", "norm.weight", "cls_token"):
        model = load(build_timm(header), to_timm({**state, key: state[key] * 1.01}, header))
        assert float((model.forward_features(images()) - right).abs().max()) > 1e-4
