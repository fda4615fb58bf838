"""data2vec for images: BEiT's blocks and renaming (see `beit`), with a head that regresses features.

==========  ======================================================  ========================================
layout      left out                                                why
==========  ======================================================  ========================================
pretrained  mask_token, lm_head.*, relative_position_index          the head is square, unlike BEiT's
stripped    mask_token, relative_position_index                     the same without the head
fine-tuned  head.*, relative_position_index                         as BEiT's
==========  ======================================================  ========================================

The student (``model``) is taken; ``branch="model_ema"`` takes the teacher. Pretraining was fed the ImageNet
statistics; the published command for fine-tuning leaves that open, so it must be given.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from cmae_mm.checkpoints.sources.beit import (
    RELATIVE,
    RULES,
    SHARED_INDEX,
    SHARED_TABLE,
    fine_tuned,
    predicts_codes,
    stripped,
)
from cmae_mm.checkpoints.sources.layout import Family, Layout
from cmae_mm.checkpoints.sources.steps import BEIT_STEPS


def _regresses(state: Mapping[str, torch.Tensor]) -> bool:
    return not predicts_codes(state)


FAMILY = Family(
    name="data2vec",
    method="data2vec",
    licence="CC-BY-NC 4.0 (facebookresearch/data2vec_vision)",
    layouts=(
        Layout(
            "pretrained",
            rules=RULES,
            steps=BEIT_STEPS,
            drop=("mask_token", "lm_head.*", SHARED_INDEX),
            needs=("lm_head.weight", SHARED_TABLE),
            test=_regresses,
            architecture=RELATIVE,
            pooling="avg",
        ),
        stripped("imagenet"),
        fine_tuned(""),
    ),
)
