"""Official MAE: a whole training checkpoint, encoder and decoder, to the names of this suite's `PlainMAE`.

=======================  ===============================  =====================================
from                     to                               why
=======================  ===============================  =====================================
patch_embed.proj         backbone.patch_embed.projection  the stem's name in OpenMMLab
blocks.N                 backbone.layers.N                blocks, see below
norm                     backbone.ln1                     final norm of the encoder
cls_token, pos_embed     backbone. + name                 the table is kept: its axes are swapped
                                                          against the one that OpenMMLab makes
decoder_blocks.N         neck.decoder_blocks.N            blocks, see below
decoder_norm             neck.ln1                         final norm of the decoder
mask_token, decoder_*    neck. + name                     the rest of the decoder
in a block: norm1, 2     ln1, ln2                         pre-norms
in a block: mlp.fc1, 2   ffn.layers.0.0, ffn.layers.1     linear layers of the MLP
=======================  ===============================  =====================================

Nothing is dropped. Files that hold the encoder alone give the ``backbone.`` part.

As the source of a backbone file (`FAMILY`) the names are timm's already:

=============  ======================================  =====================================================
layout         left out                                why
=============  ======================================  =====================================================
encoder        nothing                                 ``mae_pretrain_*.pth``
with decoder   mask_token, decoder_*                   the decoder serves pretraining only
fine-tuned     head.*                                  a classifier; its fc_norm (after pooling) is kept
=============  ======================================  =====================================================

The position table is the fixed one whose first half encodes the column. Files called ``visualize`` are another
training, without normalised pixels.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

from cmae_mm.checkpoints.sources.layout import PLAIN, Family, Layout

FAMILY = Family(
    name="mae",
    method="mae",
    licence="CC-BY-NC 4.0 (facebookresearch/mae)",
    layouts=(
        Layout("encoder", tables=("sincos_col",), pooling="avg"),
        Layout(
            "with decoder",
            drop=("mask_token", "decoder_*"),
            needs=("decoder_embed.weight",),
            tables=("sincos_col",),
            pooling="avg",
        ),
        Layout(
            "fine-tuned", drop=("head.*",), architecture={**PLAIN, "final_norm": "fc_norm"}, pooling="avg"
        ),
    ),
)

_BLOCK = (("norm", "ln"), ("mlp.fc1.", "ffn.layers.0.0."), ("mlp.fc2.", "ffn.layers.1."))
_TOP = (
    (re.compile(r"^(mask_token|decoder_)"), r"neck.\1"),
    (re.compile(r"^neck\.decoder_norm\."), "neck.ln1."),
    (re.compile(r"^patch_embed\.proj\."), "backbone.patch_embed.projection."),
    (re.compile(r"^norm\."), "backbone.ln1."),
    (re.compile(r"^blocks\."), "backbone.layers."),
    (re.compile(r"^(cls_token|pos_embed)$"), r"backbone.\1"),
)


def openmmlab_name(key: str) -> str:
    """Turn a key of the official MAE into that of `PlainMAE`."""
    if re.match(r"^(decoder_)?blocks\.\d+\.", key):
        for old, new in _BLOCK:
            key = key.replace(old, new)
    for pattern, replacement in _TOP:
        key = pattern.sub(replacement, key)
    return key


def model_state(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename the tensors of an official MAE, whose decoder may be missing."""
    return {openmmlab_name(key): value for key, value in state.items()}
