"""Read the architecture from tensors under canonical names, and hold every shape against it."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from cmae_mm.checkpoints.backbone_file import depth_of, expected_keys, expected_shape
from cmae_mm.checkpoints.header import BackboneHeader
from cmae_mm.checkpoints.misfit import Misfit
from cmae_mm.checkpoints.staged.hybrid import read_hybrid
from cmae_mm.checkpoints.staged.swin import read_swin

_TABLE = "blocks.0.attn.relative_position_bias_table"
Shape = tuple[int, ...]


def describe(state: Mapping[str, torch.Tensor], kind: str = "vit") -> BackboneHeader:
    """Read the architecture and check that keys and shapes are exactly those of such an encoder.

    Args:
        state: Tensors under the names of a backbone file; only their shapes are looked at.
        kind: ``"vit"``, ``"swin"`` or ``"hybrid"``.

    Returns:
        A header with the architecture alone; ``heads`` is 0 unless tables of relative positions show it.

    Raises:
        Misfit: If a tensor is missing, unexpected, or has another shape.
    """
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    header = {"vit": _read, "swin": read_swin, "hybrid": read_hybrid}[kind](shapes)
    expected = expected_keys(header)
    missing, unexpected = sorted(expected - set(shapes)), sorted(set(shapes) - expected)
    if missing or unexpected:
        parts = [_count(missing, "missing"), _count(unexpected, "not known")]
        raise Misfit(" and ".join(p for p in parts if p), len(missing) + len(unexpected))
    for key in sorted(expected):
        if shapes[key] != (shape := expected_shape(key, header)):
            raise Misfit(f"{key} has the shape {shapes[key]}, not {shape}", 1)
    return header


def _read(shapes: Mapping[str, Shape]) -> BackboneHeader:
    stem, fc1, fc2 = (
        shapes.get(f"{name}.weight", ())
        for name in ("patch_embed.proj", "blocks.0.mlp.fc1", "blocks.0.mlp.fc2")
    )
    if len(stem) != 4 or stem[1] != 3 or stem[2] != stem[3] or 0 in stem:
        raise Misfit(f"the patch embedding has the shape {stem}, not (channels, 3, patch, patch)")
    if len(fc1) != 2 or len(fc2) != 2:
        raise Misfit("block 0 has no mlp.fc1 and mlp.fc2")
    table, registers = shapes.get(_TABLE, ()), shapes.get("reg_token", ())
    class_token = "cls_token" in shapes
    side, position = _grid(shapes.get("pos_embed"), table, class_token)
    return BackboneHeader(
        method="",
        width=stem[0],
        depth=depth_of(set(shapes)),
        heads=table[1] if len(table) == 2 else 0,
        hidden=fc1[0],
        patch=stem[2],
        image_size=side * stem[2],
        class_token=class_token,
        position=position,
        registers=registers[1] if len(registers) == 3 else 0,
        layer_scale="blocks.0.ls1.gamma" in shapes,
        relative_position=_TABLE in shapes,
        final_norm=next((name for name in ("norm", "fc_norm") if f"{name}.weight" in shapes), "none"),
        mlp="swiglu" if fc1[0] == 2 * fc2[1] else "gelu",
    )


def _grid(positions: Shape | None, relative: Shape, class_token: bool) -> tuple[int, str]:
    """Side of the grid of patches, and what the position table has rows for."""
    if positions is not None:
        if len(positions) != 3:
            raise Misfit(f"pos_embed has the shape {positions}, not (1, rows, channels)")
        kinds = {"class_row": 1, "patches": 0} if class_token else {"patches": 0}
        for kind, extra in kinds.items():
            if side := _square_root(positions[1] - extra):
                return side, kind
        raise Misfit(f"pos_embed has {positions[1]} rows, which are no square grid")
    # (2 G - 1)^2 offsets between patches, and three more for the class token
    if len(relative) == 2 and (side := _square_root(relative[0] - 3)) % 2:
        return (side + 1) // 2, "none"
    raise Misfit("there is neither a position table nor a square table of relative positions")


def _square_root(number: int) -> int:
    """Returns: The root of a square number; 0 if it is none."""
    root = math.isqrt(max(number, 0))
    return root if root * root == number else 0


def _count(keys: list[str], what: str) -> str:
    if not keys:
        return ""
    noun = "key is" if len(keys) == 1 else "keys are"
    return f"{len(keys)} {noun} {what} ({', '.join(keys[:3])})"
