"""mmseg: ``MAE`` (the default, which carries most), ``BEiT`` or ``VisionTransformer``; Swin see `swin`.

======================  ===========================  ===============================  ===========================
                        ``MAE``                      ``BEiT``                         ``VisionTransformer``
======================  ===========================  ===============================  ===========================
position table          with class row; none: zeros  none, or refused                 with class row; none: zeros
relative positions      table per block; none: zeros table per block; none: zeros     refused
layer scale             ``gamma_K``; none: ones      ``gamma_K``; none: ones          refused
bias of q, k, v         ``attn.qkv.bias``            ``q_bias``, ``v_bias``           ``attn.attn.in_proj_bias``
no class token          refused                      refused                          zeros, ``with_cls_token=False``
patch bias              yes                          yes                              only with ``patch_bias=True``
======================  ===========================  ===============================  ===========================

Norms and MLP are named as in mmpretrain. Dense models end without the final norm unless built with
``final_norm=True``; a norm after pooling (``fc_norm``) has no place where nothing is pooled, and is left out.

Not carried by any: registers, a SwiGLU, a hidden width that is no multiple of the width. Take the arguments from
`mmseg_config`: the defaults of the library set the epsilon of the norms to 1e-5, start layer scale at 0.1 and drop the
patch bias.
"""

from __future__ import annotations

import re
from typing import Any, Literal

import torch

from cmae_mm.checkpoints.header import BackboneHeader
from cmae_mm.checkpoints.targets.parts import (
    MM_RULES,
    TABLE,
    Tensors,
    refuse,
    refuse_kind,
    relative_index,
    rename,
    separate_bias,
    with_class_row,
)
from cmae_mm.checkpoints.targets.swin import swin_config, swin_to_mm

Backbone = Literal["MAE", "BEiT", "VisionTransformer"]

_SCALE_RULES = ((re.compile(r"^blocks\.(\d+)\.ls([12])\.gamma$"), r"layers.\1.gamma_\2"),)
_VIT_RULES = (
    (re.compile(r"^blocks\.(\d+)\.attn\.qkv\.(weight|bias)$"), r"layers.\1.attn.attn.in_proj_\2"),
    (re.compile(r"^blocks\.(\d+)\.attn\.proj\."), r"layers.\1.attn.attn.out_proj."),
)


def to_mmseg(
    state: Tensors, header: BackboneHeader, backbone: Backbone = "MAE", final_norm: bool = False
) -> Tensors:
    """Rename for mmseg and fill what its backbone has beyond the encoder; see the table above.

    Args:
        state: Tensors of a backbone file.
        header: Its header.
        backbone: Class of mmseg.
        final_norm: Whether the backbone is built with its final norm.

    Returns:
        State dict of the backbone that `mmseg_config` describes; without the prefix ``backbone.``.

    Raises:
        UserError: If the backbone cannot hold this encoder.
    """
    refuse_kind("mmseg", header, "swin")
    if header.kind == "swin":
        return swin_to_mm(state, header, dense=True)
    _refuse(header, backbone, final_norm)
    state = {k: v for k, v in state.items() if not k.startswith("fc_norm.")}
    if not final_norm:
        state = {k: v for k, v in state.items() if not k.startswith("norm.")}
    if backbone != "BEiT":
        state["pos_embed"] = with_class_row(state, header)
    if backbone == "VisionTransformer":
        state.setdefault("cls_token", torch.zeros(1, 1, header.width))
        return rename(state, (*_VIT_RULES, *MM_RULES))
    if backbone == "BEiT":
        state = separate_bias(state, header)
    _fill_blocks(state, header)
    return rename(state, (*_SCALE_RULES, *MM_RULES))


def mmseg_config(
    header: BackboneHeader, backbone: Backbone = "MAE", final_norm: bool = False
) -> dict[str, Any]:
    """The backbone to build.

    Args:
        header: Architecture.
        backbone: Class of mmseg.
        final_norm: Whether it ends with the final norm.

    Returns:
        ``type`` and arguments, as in a config.

    Raises:
        UserError: If the backbone cannot hold this encoder.
    """
    refuse_kind("mmseg", header, "swin")
    if header.kind == "swin":
        return swin_config(header, dense=True)
    _refuse(header, backbone, final_norm)
    config: dict[str, Any] = dict(
        type=backbone,
        img_size=header.image_size,
        patch_size=header.patch,
        embed_dims=header.width,
        num_layers=header.depth,
        num_heads=header.heads,
        mlp_ratio=header.hidden // header.width,
        final_norm=final_norm,
        norm_cfg=dict(type="LN", eps=header.ln_eps),
    )
    if backbone == "VisionTransformer":
        return config | dict(patch_bias=True, with_cls_token=header.class_token)
    return config | dict(init_values=1.0)


def _fill_blocks(state: Tensors, header: BackboneHeader) -> None:
    """Layer scale, table and index of every block, where the encoder has none."""
    index = relative_index(header.grid)
    for i in range(header.depth):
        for k in (1, 2):
            state.setdefault(f"blocks.{i}.ls{k}.gamma", torch.ones(header.width))
        rows = (2 * header.grid - 1) ** 2 + 3
        state.setdefault(f"blocks.{i}.{TABLE}", torch.zeros(rows, header.heads))
        state[f"blocks.{i}.attn.relative_position_index"] = index.clone()


def _refuse(header: BackboneHeader, backbone: str, final_norm: bool) -> None:
    plain = backbone == "VisionTransformer"
    refuse(
        f"mmseg's {backbone}",
        {
            "register tokens": header.registers,
            "a SwiGLU MLP": header.mlp == "swiglu",
            f"a hidden width of {header.hidden} (no multiple of {header.width})": header.hidden
            % header.width,
            "tokens without a class token": not plain and not header.class_token,
            "a position table": backbone == "BEiT" and header.position != "none",
            "layer scale": plain and header.layer_scale,
            "relative positions": plain and header.relative_position,
            "blocks without a norm on all tokens (it was asked for one)": final_norm
            and header.final_norm != "norm",
        },
    )
