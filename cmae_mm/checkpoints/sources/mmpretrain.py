"""mmpretrain (and mmselfsup 1.x): the encoder of its models, below ``backbone.`` or extracted.

Names as in `openmmlab`, and beside:

=============================  =====================  =====================================================
from                           to                     why
=============================  =====================  =====================================================
layers.N.attn.gamma1.weight    blocks.N.ls1.gamma     layer scale of plain ViTs
layers.N.ffn.gamma2.weight     blocks.N.ls2.gamma
layers.N.gamma_1, gamma_2      blocks.N.ls1.gamma...  layer scale of BEiT's blocks; biases, tables as `beit`
layers.N.ffn.w12, w3           blocks.N.mlp.fc1, fc2  SwiGLU; both input halves stay packed
ln2 (top level)                fc_norm                norm after pooling
=============================  =====================  =====================================================

==========  ==================================================  =============================================
model       left out                                            why
==========  ==================================================  =============================================
MAE         neck.*                                              the decoder
MoCo v3     momentum_encoder.*, neck.*, head.*                  the other branch, projector, predictor
BEiT        mask_token, relative_position_index, neck.*,        serve pretraining only
            head.*, target_generator.*
CAE         teacher.*, neck.*, head.*, target_generator.*       serve pretraining only
MaskFeat    mask_token, neck.*, target_generator.*              serve pretraining only
DINOv2      head.*                                              a classifier; recognised by patch and scale
ViT         head.*                                              a classifier
==========  ==================================================  =============================================

mmpretrain has SimMIM with a Swin transformer only, see `swin`.
"""

from __future__ import annotations

from typing import Any

from cmae_mm.checkpoints.sources.beit import RELATIVE
from cmae_mm.checkpoints.sources.beit import RULES as BEIT_RULES
from cmae_mm.checkpoints.sources.layout import PLAIN, TWELVE_HEADED_SMALL, Family, Layout, rules
from cmae_mm.checkpoints.sources.openmmlab import RULES as NAMES
from cmae_mm.checkpoints.sources.steps import BEIT_STEPS

_LICENCE = "Apache-2.0 (open-mmlab/mmpretrain)"
_RULES = (
    rules(
        (r"^layers\.(\d+)\.ffn\.w12\.", r"blocks.\1.mlp.fc1."),
        (r"^layers\.(\d+)\.ffn\.w3\.", r"blocks.\1.mlp.fc2."),
        (r"^ln2\.", "fc_norm."),
    )
    + BEIT_RULES
    + NAMES
)
_MM: Any = dict(stem="patch_embed.projection.weight", rules=_RULES)
_WHOLE: Any = dict(prefixes=("backbone.",), **_MM)
_EITHER: Any = dict(prefixes=("", "backbone."), **_MM)
_SINCOS: Any = dict(tables=("sincos_row",))
_DINOV2 = {"layer_scale": True, "patch": 14, "position": "class_row", "final_norm": "norm"}
_INDICES = ("rel_pos_bias.relative_position_index", "layers.*.attn.relative_position_index")


def _family(name: str, *layouts: Layout, **change: Any) -> Family:
    return Family(name=f"mmpretrain-{name}", method=name, licence=_LICENCE, layouts=layouts, **change)


def _beit_pretrained(*needs: str) -> Layout:
    return Layout(
        "full",
        steps=BEIT_STEPS,
        drop=("mask_token", *_INDICES),
        beside=("head.*", "neck.*", "target_generator.*"),
        needs=("backbone.rel_pos_bias.*", "backbone.mask_token", *needs),
        architecture=RELATIVE,
        pooling="avg",
        lacks=() if needs else ("neck.*",),
        **_WHOLE,
    )


def _beit_backbone(normalization: str, final_norm: str) -> Layout:
    return Layout(
        "backbone" if final_norm == "norm" else "fine-tuned",
        steps=BEIT_STEPS,
        drop=("mask_token", *_INDICES),
        beside=("head.*",) if final_norm == "fc_norm" else (),
        needs=("*layers.*.attn.q_bias",),
        architecture={**RELATIVE, "final_norm": final_norm, "layer_scale": (True, False)},
        normalization=normalization,
        pooling="avg",
        **_EITHER,
    )


def _vit(final_norm: str) -> Layout:
    free = {
        "position": ("class_row", "patches"),
        "class_token": (True, False),
        "layer_scale": (True, False),
        "mlp": ("gelu", "swiglu"),
    }
    return Layout(
        final_norm,
        beside=("head.*",),
        architecture={**PLAIN, **free, "final_norm": final_norm},
        elsewhere=(_DINOV2,),
        lacks=("*fc_norm.*",),  # the name is CMAE's
        tables=("learned",),
        normalization="",
        pooling="cls" if final_norm == "norm" else "avg",
        **_EITHER,
    )


MAE = _family(
    "mae",
    Layout(
        "full",
        beside=("neck.*", "head.*"),
        needs=("neck.decoder_pos_embed",),
        pooling="avg",
        **_WHOLE,
        **_SINCOS,
    ),
    Layout("backbone", pooling="avg", **_EITHER, **_SINCOS),
)
MOCOV3 = _family(
    "mocov3",
    Layout(
        "full",
        beside=("momentum_encoder.*", "neck.*", "head.*"),
        needs=("momentum_encoder.*",),
        branch="base",
        **_WHOLE,
        **_SINCOS,
    ),
    Layout(
        "full, momentum",
        prefixes=("momentum_encoder.module.0.",),
        beside=("momentum_encoder.*", "backbone.*", "neck.*", "head.*"),
        branch="momentum",
        on_request=True,
        **_MM,
        **_SINCOS,
    ),
    Layout("backbone", branch="base", **_EITHER, **_SINCOS),
    heads=TWELVE_HEADED_SMALL,
)
BEIT = _family(
    "beit", _beit_pretrained(), _beit_backbone("imagenet", "norm"), _beit_backbone("half", "fc_norm")
)
BEIT2 = _family(
    "beit2",
    _beit_pretrained("neck.patch_aggregation.*"),
    _beit_backbone("imagenet", "norm"),
    _beit_backbone("imagenet", "fc_norm"),
)
CAE = _family(
    "cae",
    Layout(
        "full",
        steps=BEIT_STEPS,
        beside=("teacher.*", "neck.*", "head.*", "target_generator.*"),
        needs=("neck.*", "backbone.layers.*.attn.q_bias"),
        architecture={**PLAIN, "layer_scale": True},
        **_WHOLE,
        **_SINCOS,
    ),
    Layout(
        "backbone",
        steps=BEIT_STEPS,
        needs=("*layers.*.attn.q_bias",),
        architecture={**PLAIN, "layer_scale": True},
        **_EITHER,
        **_SINCOS,
    ),
    heads=TWELVE_HEADED_SMALL,
)
MASKFEAT = _family(
    "maskfeat",
    Layout(
        "full or backbone",
        drop=("mask_token",),
        beside=("neck.*", "target_generator.*"),
        needs=("*mask_token",),
        tables=("learned",),
        pooling="avg",
        **_EITHER,
    ),
)
DINOV2 = _family(
    "dinov2",
    Layout(
        "backbone",
        beside=("head.*",),
        architecture={**PLAIN, **_DINOV2, "mlp": ("gelu", "swiglu")},
        tables=("learned",),
        **_EITHER,
    ),
)
VIT = _family("vit", _vit("norm"), _vit("fc_norm"))
FAMILIES = (MAE, MOCOV3, BEIT, BEIT2, CAE, MASKFEAT, DINOV2, VIT)
