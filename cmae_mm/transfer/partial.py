"""Partial fine-tuning: the last blocks of a ViT learn, what is before them stays as loaded (MAE, section 4.3)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from cmae_mm.errors import UserError


def check_trainable_blocks(count: float, depth: int) -> None:
    """Refuse a number of blocks that the encoder does not have.

    Args:
        count: Blocks that learn, in steps of a half.
        depth: Blocks of the encoder.

    Raises:
        UserError: It is below 0, above ``depth``, or no multiple of 0.5.
    """
    if (
        isinstance(count, bool)
        or not isinstance(count, (int, float))
        or (2 * count) % 1
        or not 0 <= count <= depth
    ):
        raise UserError(
            f"model.backbone.trainable_blocks is {count!r}: give a number from 0 to {depth} in steps of 0.5 (0.5 is "
            f"the MLP of the last block), or None for all of the encoder"
        )


def frozen_parts(vit: Any, count: float) -> Iterator[nn.Module | nn.Parameter]:
    """What does not learn when only the last ``count`` blocks do.

    Half a block is its MLP with the norm before it; the attention of that block and its norm are frozen. With all
    blocks everything learns: class token, positions and patch embedding too. The norms after the blocks always learn.

    Args:
        vit: mmpretrain's ``VisionTransformer``.
        count: Blocks that learn, in steps of a half.

    Yields:
        Modules and single parameters.
    """
    depth = len(vit.layers)
    if count == depth:
        return
    yield from (part for part in (vit.cls_token, vit.pos_embed) if part is not None)
    yield from (vit.patch_embed, vit.drop_after_pos, vit.pre_norm)
    whole = int(count)
    half = count != whole
    yield from vit.layers[: depth - whole - half]
    if half:
        block = vit.layers[depth - whole - 1]
        yield from (block.ln1, block.attn)


def freeze(vit: Any, count: float) -> None:
    """Take the frozen parts out of training.

    As neither they nor their input have gradients, autograd keeps none of their activations: nothing more is needed
    to save the memory, whatever the precision.

    Args:
        vit: mmpretrain's ``VisionTransformer``; changed in place.
        count: Blocks that learn, in steps of a half.
    """
    for part in frozen_parts(vit, count):
        part.requires_grad_(False)


def set_frozen_to_eval(vit: Any, count: float) -> None:
    """Put the frozen parts into evaluation mode, so that drop path leaves them alone.

    Args:
        vit: mmpretrain's ``VisionTransformer``; changed in place.
        count: Blocks that learn, in steps of a half.
    """
    for part in frozen_parts(vit, count):
        if isinstance(part, nn.Module):
            part.eval()
