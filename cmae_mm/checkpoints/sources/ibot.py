"""iBOT: the backbone of teacher or student, or both of a training checkpoint.

=========  ==================================  ============================  ====================================
layout     taken                               left out                      why
=========  ==================================  ============================  ====================================
teacher    everything                          nothing                       names are timm's
student    everything else                     masked_embed                  stands for masked patches
full       backbone.* of the teacher, or of    masked_embed, head.*          two projectors and their prototypes;
           the student on request                                            last_layer2 tells them from DINO's
=========  ==================================  ============================  ====================================

Weights pretrained on ImageNet-22k are published of the student only.
"""

from __future__ import annotations

from cmae_mm.checkpoints.sources.layout import PLAIN, Family, Layout

_ARCHITECTURE = {**PLAIN, "patch": (8, 16)}

FAMILY = Family(
    name="ibot",
    method="ibot",
    licence="Apache-2.0 (bytedance/ibot)",
    layouts=(
        Layout("teacher", architecture=_ARCHITECTURE, tables=("learned",), branch="teacher"),
        Layout(
            "student",
            drop=("masked_embed",),
            needs=("masked_embed",),
            architecture=_ARCHITECTURE,
            tables=("learned",),
            branch="student",
        ),
        Layout(
            "full",
            prefixes=("backbone.",),
            drop=("masked_embed",),
            beside=("head.*",),
            needs=("head.last_layer2.*",),
            architecture=_ARCHITECTURE,
            tables=("learned",),
            branch="teacher",
        ),
    ),
)
