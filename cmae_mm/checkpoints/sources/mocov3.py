"""MoCo v3: the encoder of the queries, from a training checkpoint or as converted for DeiT.

=============  =====================  ==========================  =======================================
layout         taken                  left out                    why
=============  =====================  ==========================  =======================================
full           base_encoder.*         head.N.* of that encoder    its projector
                                      momentum_encoder.*          the other branch
                                      predictor.*                 serves pretraining only
full, branch   momentum_encoder.*     head.N.*, base_encoder.*,   only with ``branch="momentum"``
momentum                              predictor.*
converted      everything             nothing                     names are timm's
=============  =====================  ==========================  =======================================

The small model has 12 heads. The position table is the fixed one whose first half encodes the row.
"""

from __future__ import annotations

from cmae_mm.checkpoints.sources.layout import TWELVE_HEADED_SMALL, Family, Layout

_SINCOS = ("sincos_row",)

FAMILY = Family(
    name="mocov3",
    method="mocov3",
    licence="CC-BY-NC 4.0 (facebookresearch/moco-v3)",
    heads=TWELVE_HEADED_SMALL,
    layouts=(
        Layout(
            "full",
            prefixes=("base_encoder.",),
            drop=("head.*",),
            beside=("momentum_encoder.*", "predictor.*"),
            needs=("momentum_encoder.*",),
            tables=_SINCOS,
            branch="base",
        ),
        Layout(
            "full, momentum",
            prefixes=("momentum_encoder.",),
            drop=("head.*",),
            beside=("base_encoder.*", "predictor.*"),
            needs=("base_encoder.*",),
            tables=_SINCOS,
            branch="momentum",
            on_request=True,
        ),
        Layout("converted", tables=_SINCOS, branch="base"),
    ),
)
