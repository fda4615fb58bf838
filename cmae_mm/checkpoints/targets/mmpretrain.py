"""mmpretrain: ``VisionTransformer``, or ``BEiTViT`` for relative positions; Swin see `swin`.

=========================  =================================  =================================================
in the backbone file       in mmpretrain                      why
=========================  =================================  =================================================
``patch_embed.proj``       ``patch_embed.projection``
``blocks.N.norm1, norm2``  ``layers.N.ln1, ln2``
``mlp.fc1, fc2``           ``ffn.layers.0.0, ffn.layers.1``   with a SwiGLU ``ffn.w12, ffn.w3``
``norm``, ``fc_norm``      ``ln1``, ``ln2``                   on all tokens, after pooling
``ls1.gamma, ls2.gamma``   ``attn.gamma1.weight``,            in ``BEiTViT`` ``gamma_1``, ``gamma_2``
                           ``ffn.gamma2.weight``
``attn.qkv.bias``          the same                           in ``BEiTViT`` ``q_bias``, ``v_bias``
=========================  =================================  =================================================

``BEiTViT`` also wants the index of its tables, which follows from the grid. Its own loading expands shared tables only
where no prefix is in front, so they come expanded.

Not carried: registers; a SwiGLU whose halves are no multiple of 8; relative positions without a class token or with a
SwiGLU. Load strictly but compare shapes first: the library resizes a position table without a word.
"""

from __future__ import annotations

import re
from typing import Any

from cmae_mm.checkpoints.header import BackboneHeader
from cmae_mm.checkpoints.targets.parts import (
    MM_RULES,
    Tensors,
    refuse,
    refuse_kind,
    relative_index,
    rename,
    separate_bias,
    with_class_row,
)
from cmae_mm.checkpoints.targets.swin import swin_config, swin_to_mm

_VIT_RULES = (
    (re.compile(r"^blocks\.(\d+)\.ls1\.gamma$"), r"layers.\1.attn.gamma1.weight"),
    (re.compile(r"^blocks\.(\d+)\.ls2\.gamma$"), r"layers.\1.ffn.gamma2.weight"),
)
_GLU_RULES = (
    (re.compile(r"^blocks\.(\d+)\.mlp\.fc1\."), r"layers.\1.ffn.w12."),
    (re.compile(r"^blocks\.(\d+)\.mlp\.fc2\."), r"layers.\1.ffn.w3."),
)
_BEIT_RULES = ((re.compile(r"^blocks\.(\d+)\.ls([12])\.gamma$"), r"layers.\1.gamma_\2"),)


def to_mmpretrain(state: Tensors, header: BackboneHeader) -> Tensors:
    """Rename for mmpretrain; see the table above.

    Args:
        state: Tensors of a backbone file.
        header: Its header.

    Returns:
        State dict of the backbone that `mmpretrain_config` describes; without the prefix ``backbone.``.

    Raises:
        UserError: If mmpretrain has no such backbone.
    """
    refuse_kind("mmpretrain", header, "swin")
    if header.kind == "swin":
        return swin_to_mm(state, header)
    _refuse(header)
    if header.relative_position:
        state = separate_bias(state, header)
        index = relative_index(header.grid)
        for i in range(header.depth):
            state[f"blocks.{i}.attn.relative_position_index"] = index.clone()
        if header.position != "none":
            state["pos_embed"] = with_class_row(state, header)
        return rename(state, (*_BEIT_RULES, *MM_RULES))
    state = dict(state)
    table = with_class_row(state, header)  # it always has a table
    state["pos_embed"] = table if header.class_token else table[:, 1:].clone()
    rules = (*_GLU_RULES, *MM_RULES) if header.mlp == "swiglu" else MM_RULES
    return rename(state, (*_VIT_RULES, *rules))


def mmpretrain_config(header: BackboneHeader) -> dict[str, Any]:
    """The backbone to build.

    Args:
        header: Architecture.

    Returns:
        ``type`` and arguments, as in a config.

    Raises:
        UserError: If mmpretrain has no such backbone.
    """
    refuse_kind("mmpretrain", header, "swin")
    if header.kind == "swin":
        return swin_config(header)
    _refuse(header)
    pooled = "cls_token" if header.pooling == "cls" and header.class_token else "featmap"
    config: dict[str, Any] = dict(
        type="VisionTransformer",
        arch=dict(
            embed_dims=header.width,
            num_layers=header.depth,
            num_heads=header.heads,
            feedforward_channels=header.hidden,
        ),
        img_size=header.image_size,
        patch_size=header.patch,
        with_cls_token=header.class_token,
        final_norm=header.final_norm == "norm",
        out_type="avg_featmap" if header.final_norm == "fc_norm" else pooled,
        norm_cfg=dict(type="LN", eps=header.ln_eps),
        layer_scale_init_value=1.0 if header.layer_scale else 0.0,
    )
    if header.relative_position:
        return config | dict(type="BEiTViT", use_abs_pos_emb=header.position != "none")
    if header.mlp == "swiglu":
        # The library takes two thirds of this number, rounded up to a multiple of 8, for each half.
        config["arch"]["feedforward_channels"] = header.hidden * 3 // 4
        config["layer_cfgs"] = dict(ffn_type="swiglu_fused")
    return config


def _refuse(header: BackboneHeader) -> None:
    beit, glu = header.relative_position, header.mlp == "swiglu"
    refuse(
        f"mmpretrain's {'BEiTViT' if beit else 'VisionTransformer'}",
        {
            "register tokens": header.registers,
            "tokens without a class token": beit and not header.class_token,
            "a SwiGLU MLP": beit and glu,
            f"a SwiGLU with halves of {header.hidden // 2} channels (no multiple of 8)": glu
            and header.hidden % 16,
        },
    )
