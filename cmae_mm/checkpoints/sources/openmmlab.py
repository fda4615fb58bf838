"""Checkpoints of this suite and of mmpretrain: OpenMMLab key names.

=====================  ==================  ==========================================
from                   to                  why
=====================  ==================  ==========================================
patch_embed.projection patch_embed.proj    the stem's name in timm
layers.N.ln1, ln2      blocks.N.norm1, 2   pre-norms of a block
ffn.layers.0.0         mlp.fc1             first linear layer of the MLP
ffn.layers.1           mlp.fc2             second linear layer of the MLP
attn.gamma1.weight     ls1.gamma           layer scales of a block
ffn.gamma2.weight      ls2.gamma
ln1 (top level)        norm                final norm
=====================  ==================  ==========================================
"""

from __future__ import annotations

import re

import torch

RULES = (
    (re.compile(r"^patch_embed\.projection\."), "patch_embed.proj."),
    (re.compile(r"^layers\.(\d+)\.ln([12])\."), r"blocks.\1.norm\2."),
    (re.compile(r"^layers\.(\d+)\.ffn\.layers\.0\.0\."), r"blocks.\1.mlp.fc1."),
    (re.compile(r"^layers\.(\d+)\.ffn\.layers\.1\."), r"blocks.\1.mlp.fc2."),
    (re.compile(r"^layers\.(\d+)\.attn\.gamma1\.weight$"), r"blocks.\1.ls1.gamma"),
    (re.compile(r"^layers\.(\d+)\.ffn\.gamma2\.weight$"), r"blocks.\1.ls2.gamma"),
    (re.compile(r"^layers\.(\d+)\."), r"blocks.\1."),
    (re.compile(r"^ln1\."), "norm."),
)


def timm_name(key: str) -> str:
    """Turn an OpenMMLab encoder key (without ``backbone.``) into timm's; others stay."""
    for pattern, replacement in RULES:
        renamed, hits = pattern.subn(replacement, key)
        if hits:
            return renamed
    return key


def encoder_state(state: dict[str, torch.Tensor], prefix: str = "backbone.") -> dict[str, torch.Tensor]:
    """Pick the encoder out of a whole model and rename it.

    Args:
        state: State dict of a whole model.
        prefix: Where the online encoder lives.

    Returns:
        Encoder tensors under timm names; empty if nothing has the prefix.
    """
    return {timm_name(k[len(prefix) :]): v for k, v in state.items() if k.startswith(prefix)}
