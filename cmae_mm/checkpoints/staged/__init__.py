"""Encoders with stages, which are no plain ViT: what their backbone files hold."""

from __future__ import annotations

from cmae_mm.checkpoints.header import BackboneHeader
from cmae_mm.checkpoints.staged.hybrid import hybrid_shapes
from cmae_mm.checkpoints.staged.swin import swin_shapes

Shape = tuple[int, ...]


def staged_shapes(header: BackboneHeader) -> dict[str, Shape]:
    """Name and shape of every tensor of an encoder with stages.

    Args:
        header: Its header, with another `kind` than ``"vit"``.

    Returns:
        Key to shape.
    """
    return swin_shapes(header) if header.kind == "swin" else hybrid_shapes(header)


__all__ = ["staged_shapes"]
