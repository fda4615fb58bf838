"""SimMIM with a ViT: BEiT's blocks and renaming (see `beit`) below ``encoder.``.

==========  ======================================================  ========================================
layout      left out                                                why
==========  ======================================================  ========================================
pretrained  encoder.mask_token, decoder.0.*,                        the decoder is one 1x1 convolution
            encoder.rel_pos_bias.relative_position_index
stripped    mask_token, relative_position_index                     the encoder alone
fine-tuned  head.*, relative_position_index                         as BEiT's
==========  ======================================================  ========================================

SimMIM with a Swin transformer is another family, see `swin`.
"""

from __future__ import annotations

from cmae_mm.checkpoints.sources.beit import RELATIVE, RULES, SHARED_INDEX, SHARED_TABLE, fine_tuned, stripped
from cmae_mm.checkpoints.sources.layout import Family, Layout
from cmae_mm.checkpoints.sources.steps import BEIT_STEPS

FAMILY = Family(
    name="simmim",
    method="simmim",
    licence="MIT (microsoft/SimMIM)",
    layouts=(
        Layout(
            "pretrained",
            prefixes=("encoder.",),
            rules=RULES,
            steps=BEIT_STEPS,
            drop=("mask_token", SHARED_INDEX),
            beside=("decoder.0.*",),
            needs=("decoder.0.weight", f"encoder.{SHARED_TABLE}"),
            architecture=RELATIVE,
            pooling="avg",
        ),
        stripped("imagenet"),
        fine_tuned("imagenet"),
    ),
)
