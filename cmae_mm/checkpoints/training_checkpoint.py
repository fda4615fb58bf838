"""A full training checkpoint of this suite: its encoder for a backbone file, and the proof with timm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cmae_mm.checkpoints.backbone_file import load_backbone
from cmae_mm.checkpoints.header import BackboneHeader
from cmae_mm.checkpoints.safe_load import load_checkpoint
from cmae_mm.checkpoints.sources import convmae, openmmlab
from cmae_mm.errors import UserError

META_KEY = "backbone_header"
UNDESCRIBED = "encoder_class"  # of an encoder that backbone files cannot describe
PREFIX = "backbone."  # of the online encoder


def is_training_checkpoint(loaded: Mapping[str, Any]) -> bool:
    """Whether a pretraining run of this suite wrote it.

    Args:
        loaded: A whole checkpoint.
    """
    meta = loaded.get("meta")
    return isinstance(meta, Mapping) and META_KEY in meta


def online_encoder(
    loaded: Mapping[str, Any], path: str | Path, sha256: str
) -> tuple[dict[str, torch.Tensor], BackboneHeader]:
    """Take the online encoder out of a training checkpoint.

    Args:
        loaded: Its content.
        path: Where it was; named in the header and in error messages.
        sha256: SHA-256 of the file.

    Returns:
        Tensors under the names of a backbone file, which share their memory with the checkpoint, and the header.

    Raises:
        UserError: If the checkpoint does not describe an encoder that backbone files can hold.
    """
    meta, weights = loaded["meta"], loaded.get("state_dict")
    described = meta[META_KEY]
    if not isinstance(described, Mapping) or not isinstance(weights, Mapping):
        raise UserError(
            f"{path}: does not say which encoder it holds, so it is not a pretraining checkpoint of this suite; give "
            f"the epoch_N.pth of a pretraining run"
        )
    if UNDESCRIBED in described:
        raise UserError(
            f"{path}: holds a {described[UNDESCRIBED]}, which backbone files cannot describe; go on with the "
            f"checkpoint itself"
        )
    values = dict(described)
    values.update(epochs=meta.get("epoch"), source=Path(path).name, source_sha256=sha256)
    header = BackboneHeader.from_dict(values, str(path))
    if header.kind == "hybrid":
        inside = {k[len(PREFIX) :]: v for k, v in weights.items() if k.startswith(PREFIX)}
        return convmae.canonical_state(inside), replace(
            header, dropped=convmae.FUSION if convmae.fuses(inside) else ()
        )
    return openmmlab.encoder_state(dict(weights), PREFIX), header


def timm_model(path: str | Path) -> nn.Module:
    """Build timm's own ViT of the right size and load a backbone file as it is, strictly.

    Args:
        path: Backbone file.

    Returns:
        ``timm.models.vision_transformer.VisionTransformer`` in evaluation mode.
    """
    from timm.models.vision_transformer import VisionTransformer

    state, header = load_backbone(path)
    model = VisionTransformer(
        img_size=header.image_size,
        patch_size=header.patch,
        embed_dim=header.width,
        depth=header.depth,
        num_heads=header.heads,
        mlp_ratio=header.hidden / header.width,
        class_token=header.class_token,
        num_classes=0,
        norm_layer=partial(nn.LayerNorm, eps=header.ln_eps),
    )
    model.load_state_dict(state, strict=True)
    return model.eval()


def timm_difference(checkpoint: str | Path, path: str | Path, images: int = 2) -> float:
    """Largest difference between timm's features and mmpretrain's on the same weights.

    mmpretrain's ViT reads the encoder from the training checkpoint, timm's from the backbone file.

    Args:
        checkpoint: Training checkpoint.
        path: Backbone file made from it.
        images: Number of random images, drawn with a fixed seed.

    Returns:
        Maximum absolute difference over all tokens after the final norm.
    """
    from mmpretrain.models import VisionTransformer

    _, header = load_backbone(path)
    arch = dict(
        embed_dims=header.width,
        num_layers=header.depth,
        num_heads=header.heads,
        feedforward_channels=header.hidden,
    )
    reference = VisionTransformer(arch, header.image_size, header.patch, out_type="raw")
    weights = load_checkpoint(checkpoint)["state_dict"]
    reference.load_state_dict({k[len(PREFIX) :]: v for k, v in weights.items() if k.startswith(PREFIX)})
    reference.train(False)
    timm: Any = timm_model(path)
    shape = (images, 3, header.image_size, header.image_size)
    batch = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours: torch.Tensor = reference(batch)[-1]
        theirs = timm.forward_features(batch)
    return float((ours - theirs).abs().max())
