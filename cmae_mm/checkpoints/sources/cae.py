"""CAE: the encoder of a training checkpoint, or alone. Renamed as `beit`, but without relative positions.

========  ============================================  ====================================================
layout    left out                                      why
========  ============================================  ====================================================
full      pretext_neck.*, mask_token,                   regressor and decoder serve pretraining only
          encoder_to_decoder*
          teacher.*                                     the moving average that made the targets
encoder   nothing                                       ``encoder.`` already removed
========  ============================================  ====================================================

The position table is the fixed one whose first half encodes the row. The small model has 12 heads.
"""

from __future__ import annotations

from cmae_mm.checkpoints.sources.beit import RULES
from cmae_mm.checkpoints.sources.layout import PLAIN, TWELVE_HEADED_SMALL, Family, Layout
from cmae_mm.checkpoints.sources.steps import full_bias

_ARCHITECTURE = {**PLAIN, "layer_scale": True}

FAMILY = Family(
    name="cae",
    method="cae",
    licence="none stated (lxtGH/CAE)",
    heads=TWELVE_HEADED_SMALL,
    layouts=(
        Layout(
            "full",
            prefixes=("encoder.",),
            rules=RULES,
            steps=(full_bias,),
            beside=("pretext_neck.*", "mask_token", "encoder_to_decoder*", "teacher.*"),
            needs=("pretext_neck.*", "encoder.blocks.*.attn.q_bias"),
            architecture=_ARCHITECTURE,
            tables=("sincos_row",),
        ),
        Layout(
            "encoder",
            prefixes=("", "encoder."),
            rules=RULES,
            steps=(full_bias,),
            needs=("*blocks.*.attn.q_bias", "*blocks.*.gamma_1"),
            architecture=_ARCHITECTURE,
            tables=("sincos_row",),
        ),
    ),
)
