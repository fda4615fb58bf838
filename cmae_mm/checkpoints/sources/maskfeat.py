"""MaskFeat of SlowFast with a ViT: an encoder without a final norm, which pretraining removes.

==========  =============================  ====================================================
layout      left out                       why
==========  =============================  ====================================================
pretrained  mask_token                     stands for masked patches
            pred_head.*, hogs.*            predict and compute the targets
==========  =============================  ====================================================
"""

from __future__ import annotations

from cmae_mm.checkpoints.sources.layout import PLAIN, Family, Layout

FAMILY = Family(
    name="maskfeat",
    method="maskfeat",
    licence="Apache-2.0 (facebookresearch/SlowFast)",
    layouts=(
        Layout(
            "pretrained",
            drop=("mask_token", "pred_head.*", "hogs.*"),
            needs=("pred_head.*",),
            architecture={**PLAIN, "final_norm": "none"},
            tables=("learned",),
            pooling="avg",
        ),
    ),
)
