"""Canonical tensors under the names of other libraries: what leaves the backbone file.

Every function takes the tensors and header of a backbone file and returns a new dictionary that loads strictly into the
library's model, built for the same image size. What a library has no place for raises `UserError`; what it has and the
encoder lacks is filled with the values that change nothing (ones for layer scale, zeros for positions).

Not in the tensors, and so not carried: how the input is normalised and the order of its channels (``header.mean``,
``std``, ``channel_order``; `fold_input` rewrites the stem for RGB and ImageNet statistics), ``ln_eps`` and the number
of heads. The models are built with those by the functions beside: `build_timm`, `mmpretrain_config`, `mmseg_config`,
`hf_config`.
"""

from __future__ import annotations

from cmae_mm.checkpoints.targets.huggingface import hf_config, to_hf
from cmae_mm.checkpoints.targets.mmdet import to_mmdet
from cmae_mm.checkpoints.targets.mmpretrain import mmpretrain_config, to_mmpretrain
from cmae_mm.checkpoints.targets.mmseg import mmseg_config, to_mmseg
from cmae_mm.checkpoints.targets.parts import Tensors
from cmae_mm.checkpoints.targets.timm import build_timm, to_timm

TARGETS = {
    "timm": to_timm,
    "mmpretrain": to_mmpretrain,
    "hf": to_hf,
    "mmseg": to_mmseg,
    "mmdet": to_mmdet,
}

__all__ = [
    "TARGETS",
    "Tensors",
    "build_timm",
    "hf_config",
    "mmpretrain_config",
    "mmseg_config",
    "to_hf",
    "to_mmdet",
    "to_mmpretrain",
    "to_mmseg",
    "to_timm",
]
