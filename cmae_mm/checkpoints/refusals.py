"""Checkpoints that look like a plain ViT, or are asked for often, and are none: each with a sentence why.

Without this, some would load into a plain ViT almost, and give other features.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

import torch

_FILES = (
    (
        {"target_encoder", "predictor"},
        "I-JEPA, whose encoders have no class token and whose file holds two of them, is not supported",
    ),
)
_TARGETS = "target_generator."  # of mmpretrain: frozen models of other kinds
# First match wins. A pattern is searched in every key.
_KEYS = (
    (
        r"rope_embed\.periods|storage_tokens|qkv\.bias_mask",
        "DINOv3 has rotary positions, which a plain ViT does not compute",
    ),
    (
        r"layers?\.\d+\.mlp\.(up_proj|gate_proj)\.|(?<!encoder\.)layer\.\d+\.attention\.q_proj",
        "DINOv3 as Hugging Face stores it has rotary positions, which a plain ViT does not compute",
    ),
    (
        r"(^|\.)rope|blocks\.\d+\.attn\.q_proj\.",
        "EVA and DINOv3 as timm stores them have rotary positions, which a plain ViT does not compute",
    ),
    (r"blocks\.\d+\.attn\.temperature$", "XCiT attends over channels, not over tokens"),
    (
        r"patch_embed\.proj\.[0-9]+\.|patch_embed\.backbone\.|patch_embed\.conv\d",
        "an encoder with a convolutional stem (as the vit_conv models of MoCo v3, or a hybrid) is no plain ViT",
    ),
    (
        r"\.cpb_mlp\.|\.attn\.(w_msa\.)?logit_scale$",
        "the second version of Swin compares by cosine and computes its relative positions, which is not supported",
    ),
    (
        r"\.attn\.rel_pos_[hw]$|(^|\.)neck\.\d+\.|image_encoder\.",
        "SAM and ViTDet have decomposed relative positions inside windows; import the file they were made from",
    ),
    (r"attn_pool\.|vision_model\.head\.", "SigLIP pools with attention and has no class token"),
    (
        r"(^|\.)visual\.|text_projection|vision_model\.|(^|\.)logit_scale$",
        "CLIP is a pair of encoders with projections; its image encoder has a norm before its blocks",
    ),
    (
        r"(^|\.)(norm_pre|pre_norm|pre_layrnorm|ln_pre)\.",
        "encoders in the style of CLIP have a norm before the blocks, which backbone files cannot describe",
    ),
    (
        r"pos_embed_(spatial|temporal|class)",
        "MViT and video models have separate positions in space and time",
    ),
    (
        r"dist_token|distillation_token",
        "a distilled DeiT has a second class token, which the header cannot describe",
    ),
    (r"(^|\.)layer[1-4]\.\d+\.conv1\.|(^|(?<!\d)\.)conv1\.weight$", "a ResNet is no ViT"),
    (r"dwconv\.", "ConvNeXt and other convolutional networks are no plain ViTs"),
)


def refusal(tensors: Mapping[str, torch.Tensor], outer: Collection[str] = ()) -> str:
    """Say why a checkpoint is of a kind that is known and not supported.

    Args:
        tensors: Tensors of one model.
        outer: Keys at the top of the file.

    Returns:
        A clause without a full stop; empty if nothing is against it.
    """
    for names, reason in _FILES:
        if names <= set(outer):
            return reason
    tensors = {k: v for k, v in tensors.items() if not k.startswith(_TARGETS)}
    for pattern, reason in _KEYS:
        if any(re.search(pattern, key) for key in tensors):
            return reason
    if any(key.endswith("patch_embed4.weight") for key in tensors) and "cls_token" in tensors:
        return "ConvMAE version 2 has a class token, which the hybrid encoder here has not"
    return _by_shape(tensors)


def _by_shape(tensors: Mapping[str, torch.Tensor]) -> str:
    for key, tensor in tensors.items():
        if key.endswith("pos_embed") and "decoder" not in key and tensor.ndim == 4:
            return "an encoder with a table of positions over two axes (as SAM's) is no plain ViT"
        if re.search(r"patch_embed\.proj(ection)?\.weight$", key) and tensor.ndim == 5:
            return "a video model has patches in time"
    registers = any(key.endswith(("reg_token", "register_tokens")) for key in tensors)
    positions = any(key.endswith(("pos_embed", "position_embeddings")) for key in tensors)
    if registers and not positions:
        return "an encoder with registers and no table of positions (as DINOv3) has rotary positions"
    return ""
