"""mmdet: ``ViT`` of its project ViTDet, whose names are timm's; for Swin mmdet's own, see `swin`.

It has no class token and no final norm; both are left out. Its position table has a row for the class token all the
same (``pretrain_use_cls_token=True``). Decomposed relative positions are new in detection: they start at zero.

The project reads ``{"model": state}`` and loads it without being strict, so compare the keys afterwards. Its config
passes norms without an epsilon, which makes it 1e-5; give ``header.ln_eps``.

Not carried: registers, layer scale, relative positions of pretraining, a SwiGLU, no position table.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from cmae_mm.checkpoints.header import BackboneHeader
from cmae_mm.checkpoints.targets.parts import Tensors, refuse, refuse_kind, with_class_row
from cmae_mm.checkpoints.targets.swin import swin_to_mm

_LEFT_OUT = ("cls_token", "norm.", "fc_norm.")


def to_mmdet(state: Tensors, header: BackboneHeader, sides: Sequence[int] | None = None) -> Tensors:
    """Choose and fill for ViTDet.

    Args:
        state: Tensors of a backbone file.
        header: Its header.
        sides: For each block, the side of its attention in patches (14 in a window, 64 over an image of 1024 pixels):
            gives it relative positions of zeros, (2 * side - 1, channels of a head). None leaves them to the model.

    Returns:
        State dict of the backbone, without the prefix ``backbone.``.

    Raises:
        UserError: If ViTDet cannot hold this encoder, or the sides are not one for each block.
    """
    refuse_kind("mmdet", header, "swin")
    if header.kind == "swin":
        return swin_to_mm(state, header, dense=True)
    refuse(
        "ViTDet's ViT",
        {
            "register tokens": header.registers,
            "layer scale": header.layer_scale,
            "relative positions of pretraining": header.relative_position,
            "a SwiGLU MLP": header.mlp == "swiglu",
            "patches without positions": header.position == "none",
            f"{header.depth} blocks (sides for {len(sides or ())} were given)": sides is not None
            and len(sides) != header.depth,
        },
    )
    kept = {k: v for k, v in state.items() if not k.startswith(_LEFT_OUT)}
    kept["pos_embed"] = with_class_row(state, header)
    for i, side in enumerate(sides or ()):
        for axis in "hw":
            kept[f"blocks.{i}.attn.rel_pos_{axis}"] = torch.zeros(2 * side - 1, header.width // header.heads)
    return kept
