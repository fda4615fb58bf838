"""timm: whatever its VisionTransformer and Beit hold that other families do not claim.

=====  ================================  =================================================================
kind   left out                          why
=====  ================================  =================================================================
vit    head.*, pre_logits.*              a classifier; its fc_norm (after pooling) is kept
beit   head.*, relative_position_index   the same; the index follows from the size of the window
=====  ================================  =================================================================

Names stay; for ``beit`` layer scale and biases become those of the plain ViT (see `beit`). The normalisation differs
from model to model and is read from the ``config.json`` beside the file, or must be given.
"""

from __future__ import annotations

from cmae_mm.checkpoints.sources.beit import INDEX, RELATIVE, RULES
from cmae_mm.checkpoints.sources.layout import PLAIN, Family, Layout
from cmae_mm.checkpoints.sources.steps import BEIT_STEPS

_LICENCE = "as stated by the model's page of timm"
_ANY = {
    **PLAIN,
    "class_token": (True, False),
    "position": ("class_row", "patches"),
    "registers": tuple(range(17)),
    "layer_scale": (True, False),
    "mlp": ("gelu", "swiglu"),
}
# As families say them: DINOv2 is recognised, not asked for.
_DINOV2 = (
    {"layer_scale": True, "patch": 14, "position": "class_row", "registers": 0, "final_norm": "norm"},
    {"layer_scale": True, "patch": 14, "position": "patches", "registers": 4, "final_norm": "norm"},
)


def _vit(final_norm: str, pooling: str) -> Layout:
    return Layout(
        final_norm,
        drop=("head.*", "pre_logits.*"),
        architecture={**_ANY, "final_norm": final_norm},
        elsewhere=_DINOV2,
        tables=("learned",),
        normalization="",
        pooling=pooling,
    )


def _beit(final_norm: str) -> Layout:
    return Layout(
        final_norm,
        rules=RULES,
        steps=BEIT_STEPS,
        drop=("head.*", INDEX),
        needs=("blocks.*.attn.q_bias", "blocks.*.attn.relative_position_bias_table"),
        architecture={**RELATIVE, "final_norm": final_norm, "layer_scale": (True, False)},
        normalization="",
        pooling="avg",
    )


VIT = Family(
    name="timm-vit",
    method="vit",
    licence=_LICENCE,
    layouts=(_vit("norm", "cls"), _vit("fc_norm", "avg")),
    hub=True,
)
BEIT = Family(
    name="timm-beit",
    method="beit",
    licence=_LICENCE,
    layouts=(_beit("fc_norm"), _beit("norm")),
    hub=True,
)
