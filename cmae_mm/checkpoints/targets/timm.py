"""timm: the names of the backbone file are its ``VisionTransformer``'s; relative positions need its ``Beit``.

Swin transformers: see `swin`.

==========================  =====================================  ===========================================
in the backbone file        in timm                                why
==========================  =====================================  ===========================================
plain ViT                   the same names
registers                   position of the class token folded     timm's table has no rows for registers alone
relative positions:
``attn.qkv.bias``           ``attn.q_bias``, ``attn.v_bias``       `separate_bias`
``lsK.gamma``               ``gamma_K``                            layer scale of a block
==========================  =====================================  ===========================================

Not carried: relative positions together with no class token, registers, a SwiGLU or no final norm.
"""

from __future__ import annotations

import re
from functools import partial
from typing import Any

from torch import nn

from cmae_mm.checkpoints.header import BackboneHeader
from cmae_mm.checkpoints.targets.parts import (
    Tensors,
    refuse,
    refuse_kind,
    rename,
    separate_bias,
    with_class_row,
    without_class_row,
)
from cmae_mm.checkpoints.targets.swin import build_timm_swin, swin_to_timm, timm_swin_arguments

_BEIT_RULES = ((re.compile(r"^blocks\.(\d+)\.ls([12])\.gamma$"), r"blocks.\1.gamma_\2"),)


def to_timm(state: Tensors, header: BackboneHeader) -> Tensors:
    """Rename for timm; see the table above.

    Args:
        state: Tensors of a backbone file.
        header: Its header.

    Returns:
        State dict of `build_timm`.

    Raises:
        UserError: If timm has no such model.
    """
    refuse_kind("timm", header, "swin")
    if header.kind == "swin":
        return swin_to_timm(state, header)
    if not header.relative_position:
        return without_class_row(state, header) if header.registers else dict(state)
    _refuse_beit(header)
    state = separate_bias(state, header)
    if header.position != "none":
        state["pos_embed"] = with_class_row(state, header)
    return rename(state, _BEIT_RULES)


def build_timm(header: BackboneHeader) -> nn.Module:
    """Build timm's model, without a classifier and with random weights.

    Args:
        header: Architecture.

    Returns:
        ``VisionTransformer``, ``Beit`` or ``SwinTransformer``.

    Raises:
        UserError: If timm has no such model.
    """
    refuse_kind("timm", header, "swin")
    if header.kind == "swin":
        return build_timm_swin(header)
    from timm.layers import Mlp, SwiGLUPacked
    from timm.models.beit import Beit
    from timm.models.vision_transformer import VisionTransformer

    common: dict[str, Any] = dict(
        img_size=header.image_size,
        patch_size=header.patch,
        embed_dim=header.width,
        depth=header.depth,
        num_heads=header.heads,
        mlp_ratio=header.hidden / header.width,
        init_values=1.0 if header.layer_scale else None,
        num_classes=0,
        global_pool="avg" if header.final_norm == "fc_norm" else "",
        norm_layer=partial(nn.LayerNorm, eps=header.ln_eps),
    )
    if header.relative_position:
        _refuse_beit(header)
        return Beit(use_rel_pos_bias=True, use_abs_pos_emb=header.position != "none", **common)
    return VisionTransformer(
        class_token=header.class_token,
        pos_embed="none" if header.position == "none" else "learn",
        no_embed_class=header.position == "patches" or header.registers > 0,
        reg_tokens=header.registers,
        final_norm=header.final_norm != "none",
        mlp_layer=SwiGLUPacked if header.mlp == "swiglu" else Mlp,
        act_layer=nn.SiLU if header.mlp == "swiglu" else nn.GELU,
        **common,
    )


def timm_call(header: BackboneHeader) -> tuple[str, dict[str, Any]]:
    """What to pass to ``timm.create_model``, with ``num_classes=0``, for the model of `build_timm`.

    The epsilon of the norms is not among it: timm's ViTs have 1e-6, its Swins 1e-5.

    Args:
        header: Architecture.

    Returns:
        Name of a model of timm, and the arguments in which this one may differ from it.

    Raises:
        UserError: If timm has no such model.
    """
    refuse_kind("timm", header, "swin")
    if header.kind == "swin":
        return "swin_base_patch4_window7_224", timm_swin_arguments(header)
    words: dict[str, Any] = dict(
        img_size=header.image_size,
        patch_size=header.patch,
        embed_dim=header.width,
        depth=header.depth,
        num_heads=header.heads,
        mlp_ratio=header.hidden / header.width,
    )
    if header.final_norm == "fc_norm":
        words["global_pool"] = "avg"
    if header.layer_scale or header.relative_position:
        words["init_values"] = 1.0 if header.layer_scale else 0.0  # None would not reach the model
    if header.relative_position:
        _refuse_beit(header)
        pool = {} if header.final_norm == "fc_norm" else {"global_pool": ""}
        return "beit_base_patch16_224", words | pool | {"use_abs_pos_emb": header.position != "none"}
    special = {
        "class_token": (header.class_token, True),
        "pos_embed": ("none" if header.position == "none" else "learn", "learn"),
        "no_embed_class": (header.position == "patches" or header.registers > 0, False),
        "reg_tokens": (header.registers, 0),
        "final_norm": (header.final_norm != "none", True),
    }
    words |= {name: value for name, (value, usual) in special.items() if value != usual}
    if not header.class_token and header.final_norm != "fc_norm":
        words |= {"global_pool": "avg", "fc_norm": False}
    if header.mlp == "swiglu":
        return "vit_giant_patch14_dinov2", {"init_values": 0.0, **words}
    return "vit_base_patch16_224", words


def _refuse_beit(header: BackboneHeader) -> None:
    refuse(
        "timm's Beit",
        {
            "tokens without a class token": not header.class_token,
            "register tokens": header.registers,
            "a SwiGLU MLP": header.mlp == "swiglu",
            "blocks without a final norm": header.final_norm == "none",
        },
    )
