"""Checkpoints of ConvMAE (github Alpha-VL/ConvMAE): names of the hybrid encoder.

In a backbone file (`FAMILY`) names stay as they are. Left out:

==================  ===============================================  ============================================
layout              keys                                             why
==================  ===============================================  ============================================
pretrained          mask_token, decoder_*, stage1_output_decode.*,   decoder and multi-scale sum serve pretraining
                    stage2_output_decode.*                           only
                    norm.*                                           was trained on that sum, which no transfer has
fine-tuned          head.*, norm.*                                   a classifier; its fc_norm is kept
==================  ===============================================  ============================================

In the model of this suite (`hybrid_name`): renamed, so that stage 3 and the final norm are called as in mmpretrain:

=============================  ================================  =====================================
from                           to                                why
=============================  ================================  =====================================
blocks3.N.                     layers.N.                         attention blocks
blocks3.N.norm1, norm2         layers.N.ln1, ln2                 pre-norms of a block
blocks3.N.mlp.fc1              layers.N.ffn.layers.0.0           first linear layer of the MLP
blocks3.N.mlp.fc2              layers.N.ffn.layers.1             second linear layer of the MLP
norm                           ln1                               final norm (of the multi-scale sum)
=============================  ================================  =====================================

Kept: pos_embed (its first half encodes the column; it only has to stay as it is), patch_embed1 to 4, blocks1,
blocks2, stage1_output_decode and stage2_output_decode (the multi-scale sum; absent from released files).

Dropped: mask_token, decoder_* (the decoder is trained anew), head.*, fc_norm.* (a fine-tuned classifier).

The released files of version 2 hold a class token. That is another architecture, and refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch

from cmae_mm.checkpoints.sources.layout import Family, Layout
from cmae_mm.checkpoints.sources.openmmlab import timm_name
from cmae_mm.errors import UserError

FUSION = (
    "stage1_output_decode.*",
    "stage2_output_decode.*",
    "norm.*",
)  # multi-scale sum, and the norm behind it
_FUSED = ("stage1_output_decode.", "stage2_output_decode.")
_PRETRAINING = ("mask_token", "decoder_*", *FUSION)
_HYBRID: Any = dict(
    kind="hybrid",
    stem="patch_embed1.proj.weight",
    tables=("sincos_col",),
    pooling="avg",
    lacks=("cls_token",),
)
FAMILY = Family(
    name="convmae",
    method="convmae",
    licence="MIT (Alpha-VL/ConvMAE)",
    heads={(768, 15): 12},
    layouts=(
        Layout("pretrained", drop=_PRETRAINING, architecture={"final_norm": "none"}, **_HYBRID),
        Layout(
            "fine-tuned",
            drop=("head.*", "norm.*"),
            architecture={"final_norm": "fc_norm"},
            **{**_HYBRID, "tables": ()},
        ),
    ),
)

_RULES = (
    (re.compile(r"^blocks3\.(\d+)\.norm([12])\."), r"layers.\1.ln\2."),
    (re.compile(r"^blocks3\.(\d+)\.mlp\.fc1\."), r"layers.\1.ffn.layers.0.0."),
    (re.compile(r"^blocks3\.(\d+)\.mlp\.fc2\."), r"layers.\1.ffn.layers.1."),
    (re.compile(r"^blocks3\.(\d+)\."), r"layers.\1."),
    (re.compile(r"^norm\."), "ln1."),
)
_KEPT = re.compile(r"^(pos_embed$|patch_embed[1-4]\.|blocks[12]\.\d+\.|stage[12]_output_decode\.)")
_DROPPED = re.compile(r"^(mask_token$|decoder_|head\.|fc_norm\.)")


def hybrid_name(key: str) -> str | None:
    """Turn a key of a ConvMAE model into that of `CMAEHybridViT`.

    Args:
        key: Official key, for example ``blocks3.0.norm1.weight``.

    Returns:
        Our key; None if it is no part of the encoder.

    Raises:
        UserError: The key is unknown, or that of version 2.
    """
    if key == "cls_token":
        raise UserError("The checkpoint has a class token: it is ConvMAE version 2; use one of version 1.")
    if _DROPPED.match(key):
        return None
    if _KEPT.match(key):
        return key
    for pattern, replacement in _RULES:
        renamed, hits = pattern.subn(replacement, key)
        if hits:
            return renamed
    raise UserError(f"The key {key!r} is not known of ConvMAE; use a checkpoint of the original repository.")


def canonical_name(key: str) -> str:
    """Turn a key of `CMAEHybridViT` into that of a backbone file, which is ConvMAE's.

    Args:
        key: Our key, for example ``layers.0.ln1.weight``.

    Returns:
        The inverse of `hybrid_name`.
    """
    name = timm_name(key)
    return "blocks3." + name.removeprefix("blocks.") if name.startswith("blocks.") else name


def canonical_state(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors of `CMAEHybridViT` for a backbone file.

    Where there is a multi-scale sum, the final norm was trained on it; both are left out.
    """
    dropped = (*_FUSED, "norm.") if fuses(state) else _FUSED
    named = {canonical_name(key): value for key, value in state.items()}
    return {key: value for key, value in named.items() if not key.startswith(dropped)}


def fuses(state: Mapping[str, torch.Tensor]) -> bool:
    """Whether tensors of `CMAEHybridViT` are those of an encoder with the multi-scale sum."""
    return any(key.startswith(_FUSED) for key in state)


def encoder_state(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Pick the encoder out of the state dict of a whole ConvMAE model and rename it."""
    names = {key: hybrid_name(key) for key in state}
    return {name: state[key] for key, name in names.items() if name is not None}
