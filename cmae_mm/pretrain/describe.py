"""What a pretraining model says of its encoder, for the header of the backbone file."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from mmpretrain.models import VisionTransformer

from cmae_mm.checkpoints import BackboneHeader
from cmae_mm.checkpoints.training_checkpoint import UNDESCRIBED
from cmae_mm.pretrain.hybrid import CMAEHybridViT


def describe_encoder(method: str, backbone: Any, data_preprocessor: Any) -> dict[str, Any]:
    """Collect the header fields that a training run knows; the exporter adds epochs and source.

    Args:
        method: Name of the method, lower case.
        backbone: mmpretrain `VisionTransformer` or `CMAEHybridViT`, square image and patch; or another encoder, of
            which only the class is noted: backbone files do not describe it.
        data_preprocessor: Has ``mean``, ``std`` and ``channel_order``.
    """
    if not isinstance(backbone, (VisionTransformer, CMAEHybridViT)):
        return {"method": method, UNDESCRIBED: type(backbone).__name__}
    fed = dict(
        # back from float32 to the digits that were configured
        mean=tuple(round(value, 4) for value in data_preprocessor.mean.flatten().tolist()),
        std=tuple(round(value, 4) for value in data_preprocessor.std.flatten().tolist()),
        channel_order=data_preprocessor.channel_order,
    )
    if isinstance(backbone, CMAEHybridViT):
        return asdict(_hybrid(method, backbone, fed))
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
        **fed,
    )
    return asdict(header)


def _hybrid(method: str, backbone: CMAEHybridViT, fed: dict[str, Any]) -> BackboneHeader:
    widths, depths, ratios, heads = backbone.arch
    hidden = tuple(int(width * ratio) for width, ratio in zip(widths, ratios, strict=True))
    stems = (backbone.patch_embed1, backbone.patch_embed2, backbone.patch_embed3)
    return BackboneHeader(
        method=method,
        width=widths[-1],
        depth=sum(depths),
        heads=heads,
        hidden=hidden[-1],
        patch=backbone.patch_size,
        image_size=backbone.img_size[0],
        class_token=False,
        position="patches",
        # with fusion the norm has learnt the multi-scale sum, which is not part of the file
        final_norm="norm" if backbone.final_norm and not backbone.fusion else "none",
        kind="hybrid",
        stage_widths=tuple(widths),
        stage_depths=tuple(depths),
        stage_heads=(0, 0, heads),
        stage_hidden=hidden,
        stage_strides=tuple(stem.proj.stride[0] for stem in stems),
        **fed,
    )
