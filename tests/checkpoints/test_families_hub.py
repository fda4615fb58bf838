"""timm and Hugging Face, in both name sets of the latter: names, dropped keys, and features of timm's model."""

import re

import pytest
import torch

from cmae_mm.checkpoints.sources import FAMILIES

SHARED = "rel_pos_bias.relative_position_bias_table"
CASES = {}


def case(name, family, names=None, **words):
    def keep(make):
        CASES[name] = (family, names or [family], make, words)
        return make

    return keep


PLAIN = ["dino", "ibot", "timm-vit"]


@case("timm layer scale", "timm-vit", normalization="half")
def _(z):
    model = z.vit(init_values=1.0, no_embed_class=True)
    return z.cat(model.state_dict(), z.junk("head.weight", "head.bias")), model, ["head.*"]


@case("timm registers without class token", "timm-vit", normalization="half")
def _(z):
    model = z.vit(class_token=False, reg_tokens=4, no_embed_class=True, global_pool="avg", fc_norm=True)
    return model.state_dict(), model, []


@case("timm without class token", "timm-vit", normalization="imagenet")
def _(z):
    model = z.vit(class_token=False, global_pool="avg", fc_norm=False)
    return model.state_dict(), model, []


@case("timm registers", "timm-vit", normalization="imagenet")
def _(z):
    model = z.vit(reg_tokens=2, no_embed_class=True)
    return model.state_dict(), model, []


@case("timm supervised", "timm-vit", PLAIN, normalization="half")
def _(z):
    model = z.vit()
    return model.state_dict(), model, []


@case("timm beit", "timm-beit", normalization="half")
def _(z):
    model = z.beit()
    return z.cat(model.state_dict(), z.junk("head.weight")), model, ["head.*"]


@case("timm beit, class token", "timm-beit", normalization="imagenet")
def _(z):
    model = z.beit(pool="token")
    return model.state_dict(), model, []


def hf(name, family, make_state, reference, dropped=(), names=None, **words):
    def make(z):
        model = reference(z)
        return make_state(z, model), model, sorted(dropped)

    CASES[name] = (family, names or [family], make, {"normalization": "half", **words})


for live in (False, True):
    kind = "live" if live else "file"
    hf(
        f"hf vit {kind}",
        "hf-vit",
        lambda z, m, live=live: z.cat(z.to_hf(m.state_dict(), live), z.junk("pooler.dense.weight")),
        lambda z: z.vit(eps=1e-12),
        ["pooler.dense.*"],
    )
    hf(
        f"hf vitmae {kind}",
        "hf-vitmae",
        lambda z, m, live=live: z.cat(
            z.prefixed("vit.", z.to_hf(m.state_dict(), live)),
            z.junk("decoder.mask_token", "decoder.decoder_embed.bias"),
        ),
        lambda z: z.vit("col", eps=1e-12),
        ["decoder.*"],
    )


def hf_beit(z, model, live, index=True):
    """Hugging Face's names for timm's Beit; the bias of the keys does not exist."""
    state = {}
    for key, value in model.state_dict().items():
        if m := re.fullmatch(r"(blocks\.\d+)\.attn\.([qv])_bias", key):
            name = {"q": "query", "v": "value"}[m[2]]
            inner = f"attention.{m[2]}_proj" if live else f"attention.attention.{name}"
            state[f"{m[1]}.{inner}.bias"] = value
        elif m := re.fullmatch(r"(blocks\.\d+)\.attn\.relative_position_bias_table", key):
            inner = "" if live else "attention.attention."
            state[f"{m[1]}.{inner}relative_position_bias.relative_position_bias_table"] = value
            if index and not live:
                state[f"{m[1]}.{inner}relative_position_bias.relative_position_index"] = torch.zeros(17, 17)
        elif key == SHARED:
            state["shared_position_bias.x" if live else "encoder.relative_position_bias.x"] = value
        else:
            state[key] = value
    state = z.to_hf(state, live)
    return z.rename(state, (r"position_bias\.x$", "position_bias.relative_position_bias_table"))


for live in (False, True):
    kind = "live" if live else "file"
    hf(
        f"hf beit fine-tuned {kind}",
        "hf-beit",
        lambda z, m, live=live: z.cat(z.prefixed("beit.", hf_beit(z, m, live)), z.junk("classifier.weight")),
        lambda z: z.beit(eps=1e-12),
        ["classifier.*"] + ([] if live else ["beit.*relative_position_index"]),
    )
    hf(
        f"hf beit pretrained {kind}",
        "hf-beit",
        lambda z, m, live=live: {
            re.sub(r"^beit\.layernorm\.", "layernorm.", k): v
            for k, v in z.cat(z.prefixed("beit.", hf_beit(z, m, live)), z.junk("lm_head.weight")).items()
        },
        lambda z: z.beit(shared=True, pool="token", eps=1e-12),
        ["lm_head.*"],
    )
    hf(
        f"hf dinov2 {kind}",
        "hf-dinov2",
        lambda z, m, live=live: z.cat(
            z.to_hf(m.state_dict(), live, dino=True), z.junk("embeddings.mask_token")
        ),
        lambda z: z.vit(patch=14, init_values=1.0),
        ["embeddings.mask_token"],
    )
hf(
    "hf data2vec",
    "hf-data2vec",
    lambda z, m: z.prefixed("data2vec_vision.", hf_beit(z, m, False, index=False)),
    lambda z: z.beit(eps=1e-12),
)
hf(
    "hf beit bare",
    "hf-beit",
    lambda z, m: hf_beit(z, m, False, index=False),
    lambda z: z.beit(eps=1e-12),
    names=["hf-beit", "hf-data2vec"],
)
hf(
    "hf dinov2 registers",
    "hf-dinov2",
    lambda z, m: z.prefixed(
        "dinov2_with_registers.",
        z.to_hf(z.rename(z.unfolded(m), (r"^register_tokens$", "reg_token")), dino=True),
    ),
    lambda z: z.vit(patch=14, init_values=1.0, reg_tokens=4, no_embed_class=True),
)
hf(
    "hf dinov2 swiglu",
    "hf-dinov2",
    lambda z, m: z.rename(
        z.to_hf(m.state_dict(), dino=True),
        (r"mlp\.fc1\.", "mlp.weights_in."),
        (r"mlp\.fc2\.", "mlp.weights_out."),
    ),
    lambda z: z.vit(patch=14, init_values=1.0, **z.swiglu()),
)


@pytest.mark.parametrize("name", CASES)
def test_features_are_those_of_the_original(name, zoo, tmp_path):
    family, names, make, words = CASES[name]
    file, reference, dropped = make(zoo)
    result = zoo.check_features(file, reference, tmp_path / "file.pth", family, names, **words)
    assert sorted(result.header.dropped) == sorted(dropped)
    if not result.header.class_token:
        assert result.header.pooling == "avg"


def test_every_family_of_both_libraries_has_a_case():
    assert {family for family, *_ in CASES.values()} == {
        n for n in FAMILIES if n.startswith(("timm-", "hf-")) and n != "timm-swin"
    }
