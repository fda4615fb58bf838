"""Hybrid encoders (ConvMAE, `pretrain.hybrid`) in a backbone file: the names are ConvMAE's.

==================================  =====================================================================
key                                 what
==================================  =====================================================================
patch_embed1, 2, 3                  entry of each stage: ``proj`` (a convolution) and ``norm``
patch_embed4                        a linear layer behind the third
blocks1.N.*, blocks2.N.*            convolutional: norm1, conv1, attn (depthwise 5 x 5), conv2, norm2, mlp
pos_embed                           (1, grid * grid, width), added in front of stage 3
blocks3.N.*                         as in a ViT
norm or fc_norm                     at the end, or none
==================================  =====================================================================

The projections that ConvMAE adds to the tokens of stage 3 in pretraining are not part of it, and neither is a norm that
was trained on the sum: no transfer uses them. Norms in front of and inside convolutions have epsilon 1e-5.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import lru_cache

from cmae_mm.checkpoints.header import BackboneHeader
from cmae_mm.checkpoints.misfit import Misfit

Shape = tuple[int, ...]
KERNEL = 5  # side of the depthwise convolutions
_BLOCK = re.compile(r"blocks([123])\.(\d+)\.")
_LEAVES = ("weight", "bias")


@lru_cache(maxsize=4)
def hybrid_shapes(header: BackboneHeader) -> dict[str, Shape]:
    """Name and shape of every tensor.

    Args:
        header: Of kind ``"hybrid"``.

    Returns:
        Key to shape; the same dict at every call, so leave it as it is.
    """
    shapes: dict[str, Shape] = {"pos_embed": (1, header.grid**2, header.width)}
    before = 3
    for i, (width, side) in enumerate(zip(header.stage_widths, header.stage_strides, strict=True)):
        name = f"patch_embed{i + 1}"
        shapes[f"{name}.proj.weight"] = (width, before, side, side)
        shapes |= dict.fromkeys((f"{name}.proj.bias", f"{name}.norm.weight", f"{name}.norm.bias"), (width,))
        block = _block_shapes(width, header.stage_hidden[i], attends=i == 2)
        shapes |= {
            f"blocks{i + 1}.{j}.{leaf}": shape
            for j in range(header.stage_depths[i])
            for leaf, shape in block.items()
        }
        before = width
    shapes |= {"patch_embed4.weight": (before, before), "patch_embed4.bias": (before,)}
    if header.final_norm != "none":
        shapes |= {f"{header.final_norm}.{leaf}": (before,) for leaf in _LEAVES}
    return shapes


def _block_shapes(width: int, hidden: int, attends: bool) -> dict[str, Shape]:
    weights: dict[str, Shape] = {"mlp.fc1": (hidden, width), "mlp.fc2": (width, hidden)}
    if attends:
        weights |= {"attn.qkv": (3 * width, width), "attn.proj": (width, width)}
    else:
        weights |= {"conv1": (width, width), "conv2": (width, width)}
        weights = {name: (*shape, 1, 1) for name, shape in weights.items()}
        weights["attn"] = (width, 1, KERNEL, KERNEL)
    shapes = {f"{name}.weight": shape for name, shape in weights.items()}
    shapes |= {f"{name}.bias": shape[:1] for name, shape in weights.items()}
    return shapes | {f"norm{i}.{leaf}": (width,) for i in (1, 2) for leaf in _LEAVES}


def read_hybrid(shapes: Mapping[str, Shape]) -> BackboneHeader:
    """Read the architecture.

    Args:
        shapes: Shapes under ConvMAE's names.

    Returns:
        A header with the architecture alone; ``heads`` is 0.

    Raises:
        Misfit: If a tensor that shows it is missing.
    """
    stems = [shapes.get(f"patch_embed{i}.proj.weight", ()) for i in (1, 2, 3)]
    fc1 = [shapes.get(f"blocks{i}.0.mlp.fc1.weight", ()) for i in (1, 2, 3)]
    if any(len(stem) != 4 for stem in stems) or any(len(weight) < 2 for weight in fc1):
        raise Misfit("it has no three stages with a patch embedding and blocks each")
    blocks = {(int(m[1]), int(m[2])) for key in shapes if (m := _BLOCK.match(key))}
    positions = shapes.get("pos_embed", ())
    grid = math.isqrt(positions[1]) if len(positions) == 3 else 0
    strides = tuple(stem[2] for stem in stems)
    return BackboneHeader(
        method="",
        width=stems[-1][0],
        depth=len(blocks),
        heads=0,
        hidden=fc1[-1][0],
        patch=math.prod(strides),
        image_size=math.prod(strides) * grid,
        class_token=False,
        position="patches",
        final_norm=next((name for name in ("norm", "fc_norm") if f"{name}.weight" in shapes), "none"),
        kind="hybrid",
        stage_widths=tuple(stem[0] for stem in stems),
        stage_depths=tuple(sum(stage == i for stage, _ in blocks) for i in (1, 2, 3)),
        stage_heads=(0, 0, 0),
        stage_hidden=tuple(weight[0] for weight in fc1),
        stage_strides=strides,
    )
