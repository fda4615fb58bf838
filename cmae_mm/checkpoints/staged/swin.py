"""Swin transformers in a backbone file: the names are those of timm's ``SwinTransformer``.

=================================  ==========================================================================
key                                what
=================================  ==========================================================================
patch_embed.proj, patch_embed.norm  stem of stage 0, stride ``stage_strides[0]``
layers.I.downsample.{norm,          in front of stage I > 0: 2 x 2 places are joined, in the order of the original
reduction}                         (row fastest: 00, 10, 01, 11), normed, and reduced without a bias
layers.I.blocks.J.*                as in a ViT, with a table of relative positions for the window of the stage
norm                               at the end, on the tokens of the last stage
=================================  ==========================================================================

The index of the tables and the masks of shifted windows follow from the sizes and are not stored. Windows are shifted
by half in every other block, and not where the map is no larger than the window.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import lru_cache

from cmae_mm.checkpoints.header import BackboneHeader
from cmae_mm.checkpoints.misfit import Misfit

Shape = tuple[int, ...]
_BLOCK = re.compile(r"layers\.(\d+)\.blocks\.(\d+)\.")


@lru_cache(maxsize=4)
def swin_shapes(header: BackboneHeader) -> dict[str, Shape]:
    """Name and shape of every tensor.

    Args:
        header: Of kind ``"swin"``.

    Returns:
        Key to shape; the same dict at every call, so leave it as it is.
    """
    first, side = header.stage_widths[0], header.stage_strides[0]
    shapes: dict[str, Shape] = {"patch_embed.proj.weight": (first, 3, side, side)}
    shapes |= dict.fromkeys(
        ("patch_embed.proj.bias", "patch_embed.norm.weight", "patch_embed.norm.bias"), (first,)
    )
    for i, depth in enumerate(header.stage_depths):
        if i:
            joined, prefix = 4 * header.stage_widths[i - 1], f"layers.{i}.downsample"
            shapes |= {f"{prefix}.norm.{leaf}": (joined,) for leaf in ("weight", "bias")}
            shapes[f"{prefix}.reduction.weight"] = (header.stage_widths[i], joined)
        block = _block_shapes(header, i)
        shapes |= {f"layers.{i}.blocks.{j}.{leaf}": v for j in range(depth) for leaf, v in block.items()}
    if header.final_norm != "none":
        shapes |= {f"{header.final_norm}.{leaf}": (header.width,) for leaf in ("weight", "bias")}
    return shapes


def _block_shapes(header: BackboneHeader, stage: int) -> dict[str, Shape]:
    width, hidden = header.stage_widths[stage], header.stage_hidden[stage]
    linear = {
        "attn.qkv": (3 * width, width),
        "attn.proj": (width, width),
        "mlp.fc1": (hidden, width),
        "mlp.fc2": (width, hidden),
    }
    shapes: dict[str, Shape] = {f"{name}.weight": shape for name, shape in linear.items()}
    shapes |= {f"{name}.bias": shape[:1] for name, shape in linear.items()}
    shapes |= {f"{norm}.{leaf}": (width,) for norm in ("norm1", "norm2") for leaf in ("weight", "bias")}
    offsets = (2 * header.stage_windows[stage] - 1) ** 2
    return {**shapes, "attn.relative_position_bias_table": (offsets, header.stage_heads[stage])}


def read_swin(shapes: Mapping[str, Shape]) -> BackboneHeader:
    """Read the architecture.

    The size of the image is not in the tensors: it is taken as that in which the last stage is one window. So are all
    published ones, which were pretrained at 192, 224 or 384 pixels.

    Args:
        shapes: Shapes under timm's names.

    Returns:
        A header with the architecture alone.

    Raises:
        Misfit: If a tensor that shows it is missing.
    """
    blocks = {(int(m[1]), int(m[2])) for key in shapes if (m := _BLOCK.match(key))}
    stages = 1 + max((stage for stage, _ in blocks), default=-1)
    stem = shapes.get("patch_embed.proj.weight", ())
    if not 1 <= stages <= 8 or len(stem) != 4 or stem[2] != stem[3]:
        raise Misfit(f"it has {stages} stages of blocks and a patch embedding of the shape {stem}")
    fc1, tables = [], []
    for i in range(stages):
        prefix = f"layers.{i}.blocks.0"
        fc1.append(shapes.get(f"{prefix}.mlp.fc1.weight", ()))
        tables.append(shapes.get(f"{prefix}.attn.relative_position_bias_table", ()))
        if len(fc1[i]) != 2 or len(tables[i]) != 2:
            raise Misfit(f"block 0 of stage {i} has no MLP or no table of relative positions")
    windows = tuple((math.isqrt(rows) + 1) // 2 for rows, _ in tables)
    strides = (stem[2], *[2] * (stages - 1))
    return BackboneHeader(
        method="",
        width=fc1[-1][1],
        depth=len(blocks),
        heads=tables[-1][1],
        hidden=fc1[-1][0],
        patch=math.prod(strides),
        image_size=math.prod(strides) * windows[-1],
        class_token=False,
        position="none",
        relative_position=True,
        final_norm="norm" if "norm.weight" in shapes else "none",
        kind="swin",
        stage_widths=tuple(width for _, width in fc1),
        stage_depths=tuple(sum(stage == i for stage, _ in blocks) for i in range(stages)),
        stage_heads=tuple(heads for _, heads in tables),
        stage_hidden=tuple(hidden for hidden, _ in fc1),
        stage_strides=strides,
        stage_windows=windows,
    )
