"""What a pretraining model says of its encoder, for the header of the backbone file."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from mmpretrain.models import VisionTransformer

from cmae_mm.checkpoints import BackboneHeader
from cmae_mm.checkpoints.export import UNDESCRIBED


def describe_encoder(method: str, backbone: Any, data_preprocessor: Any) -> dict[str, Any]:
    """Collect the header fields that a training run knows; the exporter adds epochs and source.

    Args:
        method: Name of the method, lower case.
        backbone: mmpretrain `VisionTransformer`, square image and patch; or another encoder, of which only the
            class is noted: backbone files describe plain ViTs.
        data_preprocessor: Has ``mean``, ``std`` and ``channel_order``.
    """
    if not isinstance(backbone, VisionTransformer):
        return {"method": method, UNDESCRIBED: type(backbone).__name__}
    header = BackboneHeader(
        method=method,
        width=backbone.embed_dims,
        depth=backbone.num_layers,
        heads=backbone.arch_settings["num_heads"],
        hidden=backbone.arch_settings["feedforward_channels"],
        patch=backbone.patch_embed.projection.kernel_size[0],
        image_size=backbone.img_size[0],
        ln_eps=backbone.layers[0].ln1.eps,
        class_token=backbone.with_cls_token,
        # back from float32 to the digits that were configured
        mean=tuple(round(value, 4) for value in data_preprocessor.mean.flatten().tolist()),
        std=tuple(round(value, 4) for value in data_preprocessor.std.flatten().tolist()),
        channel_order=data_preprocessor.channel_order,
    )
    return asdict(header)
