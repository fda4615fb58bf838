"""Every way out: names one by one, nothing lost or changed on the way, and what cannot be carried is said."""

import pytest
import torch
from safetensors.torch import save_file

import cmae_mm.compat  # noqa: F401  (before the libraries)
from cmae_mm.checkpoints import load_backbone, save_backbone
from cmae_mm.checkpoints.targets import (
    TARGETS,
    build_timm,
    hf_config,
    mmpretrain_config,
    mmseg_config,
    to_hf,
    to_mmdet,
    to_mmseg,
)
from cmae_mm.errors import UserError

BEIT = dict(relative_position=True, final_norm="fc_norm")
CASES = {
    "plain": {},
    "no class token": dict(class_token=False),
    "no positions": dict(position="none"),
    "registers": dict(registers=4, position="patches"),
    "registers, class row": dict(registers=4, layer_scale=True),
    "layer scale": dict(layer_scale=True),
    "fc_norm": dict(final_norm="fc_norm"),
    "no final norm": dict(final_norm="none"),
    "swiglu": dict(mlp="swiglu", hidden=128, layer_scale=True),
    "swiglu, odd": dict(mlp="swiglu", hidden=100),
    "beit": dict(**BEIT, position="none", layer_scale=True),
    "beit, no class token": dict(**BEIT, class_token=False),
    "beit, registers": dict(**BEIT, registers=1),
    "narrow MLP": dict(hidden=72),
}

TRANSFORMERS_5_23 = {  # what `save_pretrained` wrote, of a model with one block
    "vit": """embeddings.cls_token embeddings.patch_embeddings.projection.bias
        embeddings.patch_embeddings.projection.weight embeddings.position_embeddings {0}key.bias {0}key.weight
        {0}query.bias {0}query.weight {0}value.bias {0}value.weight {1}attention.output.dense.bias
        {1}attention.output.dense.weight {1}intermediate.dense.bias {1}intermediate.dense.weight
        {1}layernorm_after.bias {1}layernorm_after.weight {1}layernorm_before.bias {1}layernorm_before.weight
        {1}output.dense.bias {1}output.dense.weight layernorm.bias layernorm.weight""",
    "dinov2": """embeddings.cls_token embeddings.mask_token embeddings.patch_embeddings.projection.bias
        embeddings.patch_embeddings.projection.weight embeddings.position_embeddings {0}key.bias {0}key.weight
        {0}query.bias {0}query.weight {0}value.bias {0}value.weight {1}attention.output.dense.bias
        {1}attention.output.dense.weight {1}layer_scale1.lambda1 {1}layer_scale2.lambda1 {1}mlp.fc1.bias
        {1}mlp.fc1.weight {1}mlp.fc2.bias {1}mlp.fc2.weight {1}norm1.bias {1}norm1.weight {1}norm2.bias
        {1}norm2.weight layernorm.bias layernorm.weight""",
    "beit": """embeddings.cls_token embeddings.patch_embeddings.projection.bias
        embeddings.patch_embeddings.projection.weight {0}key.weight {0}query.bias {0}query.weight
        {0}relative_position_bias.relative_position_bias_table {0}value.bias {0}value.weight
        {1}attention.output.dense.bias {1}attention.output.dense.weight {1}intermediate.dense.bias
        {1}intermediate.dense.weight {1}lambda_1 {1}lambda_2 {1}layernorm_after.bias {1}layernorm_after.weight
        {1}layernorm_before.bias {1}layernorm_before.weight {1}output.dense.bias {1}output.dense.weight
        pooler.layernorm.bias pooler.layernorm.weight""",
}


@pytest.mark.parametrize(
    ("kind", "name", "other"),
    [
        ("vit", "plain", {}),
        ("dinov2", "layer scale", {}),
        ("dinov2", "registers", {"embeddings.": "embeddings.register_tokens"}),
        ("dinov2", "swiglu", {"mlp.fc1": "mlp.weights_in", "mlp.fc2": "mlp.weights_out"}),
        ("beit", "beit", {}),
    ],
)
def test_names_of_transformers(encoder, kind, name, other):
    """Also where transformers is not installed."""
    state, header = encoder(**CASES[name], depth=1)
    layer = "encoder.layer.0."
    names = TRANSFORMERS_5_23[kind].format(f"{layer}attention.attention.", layer)
    if "embeddings." in other:
        names += " " + other["embeddings."]
    else:
        for old, new in other.items():
            names = names.replace(old, new)
    exported = to_hf(state, header)
    assert set(exported) == set(names.split())
    assert torch.equal(
        exported[f"{layer}attention.attention.value.bias"], state["blocks.0.attn.qkv.bias"][96:]
    )
    assert hf_config(header)["model_type"].startswith(kind)


# Literal names, not derived from the rules: what every tensor of one block and of the rest is called.
BLOCK = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
NAMES = {
    "mmpretrain": (
        "layers.{}.",
        ("ln1", "attn.qkv", "attn.proj", "ln2", "ffn.layers.0.0", "ffn.layers.1"),
        {"norm": "ln1", "patch_embed.proj": "patch_embed.projection"},
    ),
    "mmseg": (
        "layers.{}.",
        ("ln1", "attn.qkv", "attn.proj", "ln2", "ffn.layers.0.0", "ffn.layers.1"),
        {"norm": "", "patch_embed.proj": "patch_embed.projection"},
    ),
    "mmdet": ("blocks.{}.", BLOCK, {"norm": "", "patch_embed.proj": "patch_embed.proj"}),
    "timm": ("blocks.{}.", BLOCK, {"norm": "norm", "patch_embed.proj": "patch_embed.proj"}),
    "hf": (
        "encoder.layer.{}.",
        (
            "layernorm_before",
            "attention.attention.query key value",
            "attention.output.dense",
            "layernorm_after",
            "intermediate.dense",
            "output.dense",
        ),
        {"norm": "layernorm", "patch_embed.proj": "embeddings.patch_embeddings.projection"},
    ),
}


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_back_again_bit_by_bit(encoder, target, tmp_path):
    state, header = encoder()
    save_backbone(tmp_path / "x.safetensors", state, header)
    exported = TARGETS[target](*load_backbone(tmp_path / "x.safetensors"))
    save_file(exported, tmp_path / "out.safetensors")  # no two tensors share memory
    prefix, parts, rest = NAMES[target]
    back = {}
    for kind in ("weight", "bias"):
        back |= {f"{a}.{kind}": exported[f"{b}.{kind}"] for a, b in rest.items() if b}
        for i in range(header.depth):
            for ours, theirs in zip(BLOCK, parts, strict=True):
                if " " in theirs:
                    first, *others = theirs.split()
                    names = [first, *(first.replace("query", other) for other in others)]
                    value = torch.cat([exported[f"{prefix.format(i)}{n}.{kind}"] for n in names])
                else:
                    value = exported[f"{prefix.format(i)}{theirs}.{kind}"]
                back[f"blocks.{i}.{ours}.{kind}"] = value
    tokens = {"cls_token": "embeddings.cls_token", "pos_embed": "embeddings.position_embeddings"}
    for ours, theirs in tokens.items():
        if (name := theirs if target == "hf" else ours) in exported:
            back[ours] = exported[name]
    lost = {"mmdet": {"cls_token"}, "hf": set()}.get(target, set())
    lost |= set() if rest["norm"] else {"norm.weight", "norm.bias"}
    assert set(back) == set(state) - lost
    assert all(torch.equal(back[k], state[k]) for k in back)


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_nothing_that_came_in_is_changed(encoder, target):
    state, header = encoder()
    before = {k: v.clone() for k, v in state.items()}
    exported = TARGETS[target](state, header)
    assert exported is not state
    assert state.keys() == before.keys()
    assert all(torch.equal(state[k], before[k]) for k in before)


REFUSALS = {
    "timm": {"beit, no class token": "timm's Beit has no place for tokens without a class token"},
    "mmpretrain": {
        "registers": "mmpretrain's VisionTransformer has no place for register tokens, which",
        "swiglu, odd": "halves of 50 channels",
        "beit, no class token": "BEiTViT has no place for tokens without a class token",
        "beit, registers": "BEiTViT has no place for register tokens",
    },
    "mmseg": {
        **dict.fromkeys(["registers", "beit, registers"], "mmseg's MAE has no place for register tokens"),
        "swiglu": "a SwiGLU MLP and a hidden width of 128",
        "no class token": "tokens without a class token",
        "narrow MLP": "a hidden width of 72",
    },
    "mmdet": {
        "registers, class row": "ViTDet's ViT has no place for register tokens and layer scale",
        "beit": "layer scale and relative positions of pretraining and patches without positions",
        "swiglu": "a SwiGLU MLP",
        "no positions": "patches without positions",
    },
    "hf": {
        "no class token": "transformers has no place for tokens without a class token",
        "fc_norm": "a norm after pooling",
        "no final norm": "blocks without a final norm",
        "swiglu, odd": "an MLP of 100 channels",
        "beit, registers": "register tokens beside relative positions",
    },
}


@pytest.mark.parametrize(("target", "name"), [(t, n) for t, names in REFUSALS.items() for n in names])
def test_what_a_library_cannot_hold_is_said(encoder, target, name):
    state, header = encoder(**CASES[name])
    with pytest.raises(UserError) as caught:
        TARGETS[target](state, header)
    text = str(caught.value)
    assert REFUSALS[target][name] in text
    assert text.endswith("which this encoder has; choose another target, or an encoder without")
    configs = {"mmpretrain": mmpretrain_config, "mmseg": mmseg_config, "hf": hf_config, "timm": build_timm}
    if target in configs:
        with pytest.raises(UserError, match="has no place for"):
            configs[target](header)


@pytest.mark.parametrize(
    ("backbone", "name", "words"),
    [
        ("BEiT", "plain", "mmseg's BEiT has no place for a position table"),
        ("VisionTransformer", "beit", "layer scale and relative positions"),
    ],
)
def test_other_backbones_of_mmseg(encoder, backbone, name, words):
    with pytest.raises(UserError, match=words):
        to_mmseg(*encoder(**CASES[name]), backbone)
    with pytest.raises(UserError, match="blocks without a norm on all tokens"):
        to_mmseg(*encoder(final_norm="none"), final_norm=True)


def test_sides_for_other_blocks(encoder):
    with pytest.raises(UserError, match=r"2 blocks \(sides for 3 were given\)"):
        to_mmdet(*encoder(), sides=(5, 5, 5))
