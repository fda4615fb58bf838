"""Swin transformers: ``SwinTransformer`` of timm, mmpretrain, mmseg and mmdet.

=====================  ===================  =====================================  ================================
in the backbone file   in timm              in mmpretrain                          in mmseg and mmdet
=====================  ===================  =====================================  ================================
``layers.I.blocks.J``  the same             ``stages.I.blocks.J``                  the same as in mmpretrain
``attn.``, ``mlp.``    the same             ``attn.w_msa.``, ``ffn.layers.``
``layers.(I+1).        the same             ``stages.I.downsample``, sorted by     the same
downsample``                                channel (the inverse of the importer)
``norm``               the same             ``norm3``                              ``norm3``; ``norm0`` to ``norm2``
                                                                                   are new: ones and zeros
index of tables        follows              stored                                 stored
=====================  ===================  =====================================  ================================

Tables of relative positions stay as they are: build the model with the windows that the encoder has. The dense
libraries have one size of windows for all stages, and shift windows also where one covers the whole map; the others do
not, so that features agree only for images that are larger than that.

Not carried by any: widths that do not double, MLPs of another ratio in each stage, no final norm.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import nn

from cmae_mm.checkpoints.header import BackboneHeader
from cmae_mm.checkpoints.targets.parts import Tensors, refuse, relative_index, rename

_RULES = (
    (re.compile(r"^patch_embed\.proj\."), "patch_embed.projection."),
    (re.compile(r"^layers\.(\d+)\.(blocks\.\d+)\.attn\."), r"stages.\1.\2.attn.w_msa."),
    (re.compile(r"^layers\.(\d+)\.(blocks\.\d+)\.mlp\.fc1\."), r"stages.\1.\2.ffn.layers.0.0."),
    (re.compile(r"^layers\.(\d+)\.(blocks\.\d+)\.mlp\.fc2\."), r"stages.\1.\2.ffn.layers.1."),
    (re.compile(r"^layers\."), "stages."),
)


def swin_to_timm(state: Tensors, header: BackboneHeader) -> Tensors:
    """Returns: The tensors as they are; the names are timm's."""
    _refuse("timm's SwinTransformer", header)
    return dict(state)


def build_timm_swin(header: BackboneHeader) -> nn.Module:
    """Build timm's model, without a classifier and with random weights.

    Args:
        header: Architecture.

    Returns:
        ``SwinTransformer``; it takes images of any size.
    """
    from functools import partial

    from timm.models.swin_transformer import SwinTransformer

    return SwinTransformer(
        norm_layer=partial(nn.LayerNorm, eps=header.ln_eps), num_classes=0, **timm_swin_arguments(header)
    )


def timm_swin_arguments(header: BackboneHeader) -> dict[str, Any]:
    """Returns: Arguments for timm's ``SwinTransformer``, or for ``create_model`` with the name of a Swin."""
    _refuse("timm's SwinTransformer", header)
    return dict(
        img_size=header.image_size,
        patch_size=header.stage_strides[0],
        embed_dim=header.stage_widths[0],
        depths=header.stage_depths,
        num_heads=header.stage_heads,
        window_size=header.stage_windows,
        mlp_ratio=header.hidden / header.width,
        strict_img_size=False,
    )


def swin_to_mm(state: Tensors, header: BackboneHeader, dense: bool = False) -> Tensors:
    """Rename for OpenMMLab; see the table above.

    Args:
        state: Tensors of a backbone file.
        header: Its header.
        dense: For mmseg and mmdet, which return every stage, each with a norm of its own.

    Returns:
        State dict of the backbone that `swin_config` describes; without the prefix ``backbone.``.

    Raises:
        UserError: If the library has no such backbone.
    """
    _refuse_mm(header, dense)
    out: Tensors = {}
    for key, value in state.items():
        if match := re.fullmatch(r"layers\.(\d+)\.downsample\.(.+)", key):
            by_place = value.unflatten(-1, (4, -1))[..., [0, 2, 1, 3], :]
            key, value = (
                f"layers.{int(match[1]) - 1}.downsample.{match[2]}",
                by_place.transpose(-1, -2).flatten(-2),
            )
        elif key.startswith("norm."):
            key = f"norm{len(header.stage_widths) - 1}.{key.removeprefix('norm.')}"
        out[key] = value
    for i, (depth, window) in enumerate(zip(header.stage_depths, header.stage_windows, strict=True)):
        for j in range(depth):
            index = relative_index(window)[1:, 1:].contiguous()
            out[f"layers.{i}.blocks.{j}.attn.relative_position_index"] = index
    for i, width in enumerate(header.stage_widths[:-1] if dense else ()):
        out |= {f"norm{i}.weight": torch.ones(width), f"norm{i}.bias": torch.zeros(width)}
    return rename(out, _RULES)


def swin_config(header: BackboneHeader, dense: bool = False) -> dict[str, Any]:
    """The backbone of OpenMMLab to build.

    Args:
        header: Architecture.
        dense: For mmseg and mmdet.

    Returns:
        ``type`` and arguments, as in a config.

    Raises:
        UserError: If the library has no such backbone.
    """
    _refuse_mm(header, dense)
    sizes = dict(embed_dims=header.stage_widths[0], depths=header.stage_depths, num_heads=header.stage_heads)
    ratio = header.hidden // header.width
    if dense:
        return dict(
            type="SwinTransformer",
            patch_size=header.stage_strides[0],
            strides=header.stage_strides,
            window_size=header.stage_windows[0],
            mlp_ratio=ratio,
            **sizes,
        )
    return dict(
        type="SwinTransformer",
        arch=sizes,
        img_size=header.image_size,
        patch_size=header.stage_strides[0],
        stage_cfgs=[
            dict(window_size=window, block_cfgs=dict(ffn_ratio=ratio)) for window in header.stage_windows
        ],
    )


def _refuse_mm(header: BackboneHeader, dense: bool) -> None:
    _refuse(
        f"the SwinTransformer of {'mmseg and mmdet' if dense else 'mmpretrain'}",
        header,
        {
            "windows of another size in each stage": dense and len(set(header.stage_windows)) > 1,
            "an MLP that is no whole multiple of the width": header.hidden % header.width,
            f"norms with an epsilon of {header.ln_eps:g}, not 1e-05,": header.ln_eps != 1e-5,
        },
    )


def _refuse(target: str, header: BackboneHeader, more: dict[str, bool | int] | None = None) -> None:
    first = header.stage_widths[0]
    ratios = {
        h * header.width == w * header.hidden
        for w, h in zip(header.stage_widths, header.stage_hidden, strict=True)
    }
    refuse(
        target,
        {
            "widths that do not double from stage to stage": header.stage_widths
            != tuple(first * 2**i for i in range(len(header.stage_widths))),
            "stages that are coarser by other factors than 2": set(header.stage_strides[1:]) - {2} != set(),
            "an MLP of another ratio in each stage": ratios != {True},
            "blocks without a norm on all tokens": header.final_norm != "norm",
            **(more or {}),
        },
    )
