"""Hugging Face transformers: ViT, ViTMAE, BEiT, data2vec and DINOv2, in the names of files and of live models.

=========================================  ==========================  ========================================
from (files and versions up to 4 | live)   to                          why
=========================================  ==========================  ========================================
embeddings.cls_token                       cls_token
embeddings.position_embeddings             pos_embed
embeddings.patch_embeddings.projection     patch_embed.proj
embeddings.register_tokens                 reg_token
encoder.layer.N | layers.N                 blocks.N
attention.attention.query, key, value      attn.qkv                    concatenated; a missing key bias is zero
| attention.q_proj, k_proj, v_proj
attention.output.dense | attention.o_proj  attn.proj                   matched before output.dense
intermediate.dense, output.dense           mlp.fc1, mlp.fc2
mlp.weights_in, weights_out                mlp.fc1, mlp.fc2            SwiGLU; input halves stay packed
layernorm_before, layernorm_after          norm1, norm2
lambda_1, 2; layer_scale1, 2.lambda1       ls1.gamma, ls2.gamma
layernorm (top level or beside the model)  norm                        on all tokens
pooler.layernorm                           fc_norm                     after pooling
shared relative_position_bias_table        every block's table
=========================================  ==========================  ========================================

Dropped: ``pooler.dense`` (untrained in most conversions), classifier.*, lm_head.*, decoder.* (of pretraining), mask
tokens, relative_position_index.

Normalisation and heads come from the two JSON files beside the weights, ``preprocessor_config.json`` and
``config.json``, or must be given: one and the same layout holds weights of many methods.
"""

from __future__ import annotations

from typing import Any

from cmae_mm.checkpoints.sources.beit import RELATIVE, SHARED_TABLE
from cmae_mm.checkpoints.sources.layout import PLAIN, Family, Layout, rules
from cmae_mm.checkpoints.sources.steps import copy_shared_table, fold_class_position, fuse_query_key_value

_TABLE = "relative_position_bias.relative_position_bias_table"
_RULES = rules(
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^embeddings\.register_tokens$", "reg_token"),
    (rf"^(encoder\.{_TABLE}|shared_position_bias\.relative_position_bias_table)$", SHARED_TABLE),
    (r"^(encoder\.layer|layers)\.(\d+)\.", r"blocks.\2."),
    (r"\.attention\.attention\.(q|k|v)(uery|ey|alue)\.", r".attn.\1."),
    (r"\.attention\.([qkv])_proj\.", r".attn.\1."),
    (r"\.(attention\.output\.dense|attention\.o_proj)\.", ".attn.proj."),
    (
        rf"^(blocks\.\d+)\.(attention\.attention\.)?{_TABLE}$",
        r"\1.attn.relative_position_bias_table",
    ),
    (r"\.(intermediate\.dense|mlp\.weights_in)\.", ".mlp.fc1."),
    (r"^(blocks\.\d+)\.(output\.dense|mlp\.weights_out)\.", r"\1.mlp.fc2."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.lambda_([12])$", r".ls\1.gamma"),
    (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
    (r"^pooler\.layernorm\.", "fc_norm."),
    (r"^layernorm\.", "norm."),
)
_DROP = ("embeddings.mask_token", "pooler.dense.*", "*relative_position_index")
_BESIDE = ("classifier.*", "lm_head.*", "decoder.*")
_HF: Any = dict(
    stem="embeddings.patch_embeddings.projection.weight",
    rules=_RULES,
    steps=(fuse_query_key_value, copy_shared_table, fold_class_position),
    drop=_DROP,
    beside=_BESIDE,
)
_BEIT_POSITIONS = {**RELATIVE, "position": ("none", "class_row"), "relative_position": (True, False)}


def _beit(prefix: str, final_norm: str) -> Layout:
    return Layout(
        final_norm if final_norm != "none" else "no norm",
        prefixes=("", prefix),
        adopt=("layernorm.*",),
        needs=("*layer*.lambda_1",),
        architecture={**_BEIT_POSITIONS, "final_norm": final_norm},
        normalization="",
        pooling="avg",
        **_HF,
    )


def _beits(prefix: str) -> tuple[Layout, ...]:
    return tuple(_beit(prefix, norm) for norm in ("norm", "fc_norm", "none"))


_LICENCE = "as stated by the model's page; the upstream licence of the weights holds"
_HUB: Any = dict(eps=1e-12, hub=True)
VIT = Family(
    name="hf-vit",
    method="vit",
    licence=_LICENCE,
    layouts=(Layout("any", prefixes=("", "vit."), tables=("learned",), normalization="", **_HF),),
    **_HUB,
)
MAE = Family(
    name="hf-vitmae",
    method="mae",
    licence="CC-BY-NC 4.0 (facebookresearch/mae)",
    layouts=(Layout("any", prefixes=("", "vit."), tables=("sincos_col",), pooling="avg", **_HF),),
    **_HUB,
)
BEIT = Family(name="hf-beit", method="beit", licence=_LICENCE, layouts=_beits("beit."), **_HUB)
DATA2VEC = Family(
    name="hf-data2vec",
    method="data2vec",
    licence="CC-BY-NC 4.0 (facebookresearch/data2vec_vision)",
    layouts=_beits("data2vec_vision."),
    **_HUB,
)
DINOV2 = Family(
    name="hf-dinov2",
    method="dinov2",
    licence="Apache-2.0 (facebookresearch/dinov2)",
    hub=True,
    layouts=(
        Layout(
            "any",
            prefixes=("", "dinov2.", "dinov2_with_registers."),
            needs=("*layer_scale1.lambda1",),
            architecture={
                **PLAIN,
                "layer_scale": True,
                "patch": 14,
                "position": ("class_row", "patches"),
                "registers": (0, 4),
                "mlp": ("gelu", "swiglu"),
            },
            tables=("learned",),
            **_HF,
        ),
    ),
)
FAMILIES = (VIT, MAE, BEIT, DATA2VEC, DINOV2)
