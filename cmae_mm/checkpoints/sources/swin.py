"""Swin transformers, of SimMIM and others, under timm's names (see `staged.swin`).

========================  ===============================  ========================================================
from                      to                               why
========================  ===============================  ========================================================
layers.I.downsample.*     layers.(I + 1).downsample.*      the original joins places behind a stage, timm in front
stages.I.                 layers.I.                        mmpretrain; its ``downsample`` moves as well, and its
                                                           channels are sorted: it joins places channel by channel
attn.w_msa., ffn.layers.  attn., mlp.fc1, mlp.fc2          mmpretrain
0.0, ffn.layers.1
norm3                     norm                             mmpretrain
========================  ===============================  ========================================================

====================  ==========================================  =================================================
layout                left out                                    why
====================  ==========================================  =================================================
SimMIM, pretrained    encoder.mask_token, decoder.0.*             serve pretraining only
SimMIM, stripped      mask_token                                  stands for masked patches
supervised            head.*                                      a classifier; fine-tuned SimMIM looks the same
mmpretrain, SimMIM    backbone.mask_token, neck.decoder.*, head.*  serve pretraining only
mmpretrain, Swin      head.*                                      a classifier
timm                  head.*                                      a classifier
all                   relative_position_index, attn_mask          follow from the sizes
====================  ==========================================  =================================================

All norms have an epsilon of 1e-5, PyTorch's default. An absolute position table, which no published model has, and the
second version of Swin are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cmae_mm.checkpoints.sources.layout import Family, Layout, rules
from cmae_mm.checkpoints.sources.steps import downsample_in_front, sort_joined_places

_MASKS = ("*.attn.relative_position_index", "*.attn_mask")
_MM_INDEX = ("*.attn.w_msa.relative_position_index",)
_NORM: Mapping[str, Any] = {"final_norm": "norm"}
_SWIN: Any = dict(kind="swin", architecture=_NORM, pooling="avg")
_MM: Any = dict(
    stem="patch_embed.projection.weight",
    rules=rules(
        (r"^patch_embed\.projection\.", "patch_embed.proj."),
        (r"^stages\.(\d+)\.", r"layers.\1."),
        (r"\.attn\.w_msa\.", ".attn."),
        (r"\.ffn\.layers\.0\.0\.", ".mlp.fc1."),
        (r"\.ffn\.layers\.1\.", ".mlp.fc2."),
        (r"^norm\d\.", "norm."),
    ),
    steps=(downsample_in_front, sort_joined_places),
    **_SWIN,
)


def _original(name: str, **words: Any) -> Layout:
    return Layout(name, steps=(downsample_in_front,), **words, **_SWIN)


SIMMIM = Family(
    name="simmim-swin",
    method="simmim",
    licence="MIT (microsoft/SimMIM)",
    eps=1e-5,
    layouts=(
        _original(
            "pretrained",
            prefixes=("encoder.",),
            drop=("mask_token", *_MASKS),
            beside=("decoder.0.*",),
            needs=("decoder.0.weight",),
        ),
        _original("stripped", drop=("mask_token", *_MASKS), needs=("mask_token", "layers.0.downsample.*")),
        _original("fine-tuned", drop=("head.*", *_MASKS), needs=("*_index", "layers.0.downsample.*")),
    ),
)
SWIN = Family(
    name="swin",
    method="swin",
    licence="MIT (microsoft/Swin-Transformer)",
    eps=1e-5,
    layouts=(_original("supervised", drop=("head.*", *_MASKS), needs=("*_index", "layers.0.downsample.*")),),
)
MM_SIMMIM = Family(
    name="mmpretrain-simmim",
    method="simmim",
    licence="Apache-2.0 (open-mmlab/mmpretrain)",
    eps=1e-5,
    layouts=(
        Layout(
            "full or backbone",
            prefixes=("backbone.", ""),
            drop=("mask_token", *_MM_INDEX),
            beside=("neck.*", "head.*"),
            needs=("*mask_token",),
            **_MM,
        ),
    ),
)
MM_SWIN = Family(
    name="mmpretrain-swin",
    method="swin",
    licence="Apache-2.0 (open-mmlab/mmpretrain)",
    eps=1e-5,
    layouts=(
        Layout(
            "any", prefixes=("backbone.", ""), drop=_MM_INDEX, beside=("head.*",), normalization="", **_MM
        ),
    ),
)
TIMM = Family(
    name="timm-swin",
    method="swin",
    licence="as stated by the model's page of timm",
    eps=1e-5,
    hub=True,
    layouts=(Layout("any", drop=("head.*",), lacks=("layers.0.downsample.*",), normalization="", **_SWIN),),
)
FAMILIES = (SIMMIM, SWIN, MM_SIMMIM, MM_SWIN, TIMM)
