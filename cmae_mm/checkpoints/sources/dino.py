"""DINO: a bare backbone, or teacher and student of a training checkpoint.

=========  ==================================  ============================  =============================
layout     taken                               left out                      why
=========  ==================================  ============================  =============================
backbone   everything                          nothing                       names are timm's
full       backbone.* of the teacher, or of    head.mlp.*,                   projector and prototypes
           the student on request              head.last_layer.*
=========  ==================================  ============================  =============================
"""

from __future__ import annotations

from cmae_mm.checkpoints.sources.layout import PLAIN, Family, Layout

_ARCHITECTURE = {**PLAIN, "patch": (8, 16)}

FAMILY = Family(
    name="dino",
    method="dino",
    licence="Apache-2.0 (facebookresearch/dino)",
    layouts=(
        Layout("backbone", architecture=_ARCHITECTURE, tables=("learned",), branch="teacher"),
        Layout(
            "full",
            prefixes=("backbone.",),
            beside=("head.mlp.*", "head.last_layer.*"),
            needs=("head.last_layer.*",),
            architecture=_ARCHITECTURE,
            tables=("learned",),
            branch="teacher",
        ),
    ),
)
