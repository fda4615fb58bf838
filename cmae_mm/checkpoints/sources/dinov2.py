"""DINOv2, with and without registers, with MLP or SwiGLU.

====================================  ======================  =================================================
from                                  to                      why
====================================  ======================  =================================================
register_tokens                       reg_token               timm's name
blocks.N.mlp.w12, w3                  mlp.fc1, fc2            SwiGLU; both input halves stay packed
blocks.C.N.*                          blocks.N.*              training keeps blocks in chunks, N is absolute
pos_embed, cls_token (registers)      position of the class token added to it, as timm stores such models
====================================  ======================  =================================================

==========  ================================  ==============================================================
layout      left out                          why
==========  ================================  ==============================================================
backbone    mask_token                        stands for masked patches
timm        head.*                            the same weights as timm saves them
full        mask_token, dino_head.*,          teacher (or student) of a training checkpoint
            ibot_head.*
==========  ================================  ==============================================================

Positions are those of 37x37 patches. Official code and timm resize them differently, so that features agree only at
the native 518 pixels.
"""

from __future__ import annotations

from cmae_mm.checkpoints.sources.layout import PLAIN, Family, Layout, rules
from cmae_mm.checkpoints.sources.steps import fold_class_position

_RULES = rules(
    (r"^register_tokens$", "reg_token"),
    (r"^blocks\.\d+\.(\d+)\.", r"blocks.\1."),
    (r"\.mlp\.w12\.", ".mlp.fc1."),
    (r"\.mlp\.w3\.", ".mlp.fc2."),
)
_ARCHITECTURE = {
    **PLAIN,
    "layer_scale": True,
    "patch": 14,
    "position": ("class_row", "patches"),
    "registers": (0, 4),
    "mlp": ("gelu", "swiglu"),
}

FAMILY = Family(
    name="dinov2",
    method="dinov2",
    licence="Apache-2.0 (facebookresearch/dinov2)",
    layouts=(
        Layout(
            "backbone",
            rules=_RULES,
            steps=(fold_class_position,),
            drop=("mask_token",),
            needs=("mask_token",),
            architecture=_ARCHITECTURE,
            tables=("learned",),
        ),
        Layout(
            "timm, registers",
            drop=("head.*",),
            architecture={**_ARCHITECTURE, "registers": 4, "position": "patches"},
            tables=("learned",),
        ),
        Layout(
            "timm",
            drop=("head.*",),
            architecture={**_ARCHITECTURE, "registers": 0, "position": "class_row"},
            tables=("learned",),
        ),
        Layout(
            "full",
            prefixes=("backbone.",),
            rules=_RULES,
            steps=(fold_class_position,),
            drop=("mask_token",),
            beside=("dino_head.*", "ibot_head.*"),
            needs=("backbone.mask_token", "dino_head.*"),
            architecture=_ARCHITECTURE,
            tables=("learned",),
            branch="teacher",
        ),
    ),
)
