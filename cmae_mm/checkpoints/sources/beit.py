"""BEiT and BEiT v2, which share most layouts; data2vec and SimMIM build on the same blocks.

====================================  ====================================  ====================================
from                                  to                                    why
====================================  ====================================  ====================================
blocks.N.gamma_1, gamma_2             blocks.N.ls1.gamma, ls2.gamma         layer scale
blocks.N.attn.q_bias, v_bias          blocks.N.attn.qkv.bias                the keys have none: zeros
rel_pos_bias.relative_position_       blocks.N.attn.relative_position_      one table for all blocks: copied
bias_table                            bias_table
====================================  ====================================  ====================================

=================  ==========================================  =================================================
layout             left out                                    why
=================  ==========================================  =================================================
pretrained         mask_token, lm_head.*                       serve pretraining only
                   relative_position_index                     follows from the size of the window
pretrained (v2)    and cls_pt_layers.*                         two extra blocks of pretraining
absolute           mask_token, lm_head.*                       BEiT with a position table and no layer scale
stripped           mask_token, relative_position_index         pretrained, without the head
fine-tuned         head.*, relative_position_index             a table for each block; fc_norm is kept
segmentation       fpn*, decode_head.*, auxiliary_head.*,      UPerNet on ADE20K; has no norm at the end
                   relative_position_index
=================  ==========================================  =================================================

BEiT was fed pixels between -1 and 1, BEiT v2 the ImageNet statistics. Nothing in the tensors tells which.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from cmae_mm.checkpoints.sources.layout import PLAIN, Family, Layout, rules
from cmae_mm.checkpoints.sources.steps import BEIT_STEPS

RULES = rules((r"\.gamma_([12])$", r".ls\1.gamma"))
INDEX = "blocks.*.attn.relative_position_index"
SHARED_INDEX = "rel_pos_bias.relative_position_index"
SHARED_TABLE = "rel_pos_bias.relative_position_bias_table"
RELATIVE: Mapping[str, Any] = {
    **PLAIN,
    "position": "none",
    "relative_position": True,
    "layer_scale": True,
}


def fine_tuned(normalization: str) -> Layout:
    """Returns: The layout of a fine-tuned classifier, the same in every family of this design."""
    return Layout(
        "fine-tuned",
        rules=RULES,
        steps=BEIT_STEPS,
        drop=("head.*", INDEX),
        needs=("blocks.*.attn.q_bias", INDEX),
        architecture={**RELATIVE, "final_norm": "fc_norm"},
        normalization=normalization,
        pooling="avg",
    )


def stripped(normalization: str) -> Layout:
    """Returns: The layout of a pretrained encoder whose head was removed, the same in every such family."""
    return Layout(
        "stripped",
        rules=RULES,
        steps=BEIT_STEPS,
        drop=("mask_token", SHARED_INDEX),
        needs=("blocks.*.attn.q_bias", SHARED_TABLE),
        architecture=RELATIVE,
        normalization=normalization,
        pooling="avg",
    )


def predicts_codes(state: Mapping[str, torch.Tensor]) -> bool:
    """Returns: Whether the head names codes of a dictionary, and does not regress features."""
    head = state["lm_head.weight"]
    return head.shape[0] != head.shape[1]


def _pretrained(normalization: str, name: str = "pretrained", *extra: str) -> Layout:
    return Layout(
        name,
        rules=RULES,
        steps=BEIT_STEPS,
        drop=("mask_token", "lm_head.*", SHARED_INDEX, *extra),
        needs=("lm_head.weight", SHARED_TABLE, *extra),
        test=predicts_codes,
        architecture=RELATIVE,
        normalization=normalization,
        pooling="avg",
    )


_SEGMENTATION = Layout(
    "segmentation",
    prefixes=("backbone.",),
    rules=RULES,
    steps=BEIT_STEPS,
    drop=("fpn*", INDEX),
    beside=("decode_head.*", "auxiliary_head.*"),
    needs=("backbone.blocks.*.attn.q_bias", "decode_head.*"),
    architecture={**RELATIVE, "final_norm": "none"},
    normalization="",
    pooling="avg",
)
_ABSOLUTE = Layout(
    "absolute",
    rules=RULES,
    steps=BEIT_STEPS,
    drop=("mask_token", "lm_head.*"),
    needs=("blocks.*.attn.q_bias", "mask_token"),
    tables=("learned",),
    pooling="avg",
)

BEIT = Family(
    name="beit",
    method="beit",
    licence="MIT (microsoft/unilm)",
    layouts=(_pretrained("half"), _ABSOLUTE, stripped("half"), fine_tuned("half"), _SEGMENTATION),
)
BEIT2 = Family(
    name="beit2",
    method="beit2",
    licence="MIT (microsoft/unilm)",
    layouts=(
        _pretrained("imagenet", "pretrained (v2)", "cls_pt_layers.*"),
        _pretrained("imagenet"),
        stripped("imagenet"),
        fine_tuned("imagenet"),
        _SEGMENTATION,
    ),
)
