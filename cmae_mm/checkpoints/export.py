"""Turn a full training checkpoint into a backbone file, and prove it with timm."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cmae_mm.checkpoints.backbone_file import load_backbone, save_backbone, sha256_of
from cmae_mm.checkpoints.header import BackboneHeader
from cmae_mm.checkpoints.safe_load import load_checkpoint
from cmae_mm.checkpoints.sources.openmmlab import encoder_state
from cmae_mm.errors import UserError

META_KEY = "backbone_header"
UNDESCRIBED = "encoder_class"  # of an encoder that is no plain ViT


def export_backbone(checkpoint: str | Path, out: str | Path) -> BackboneHeader:
    """Write the online encoder of a training checkpoint as a backbone file.

    Args:
        checkpoint: ``epoch_N.pth`` of a pretraining run of this suite.
        out: Backbone file to write.

    Returns:
        Its header.

    Raises:
        UserError: If the checkpoint is unreadable or was not written by a pretraining run.
    """
    loaded = load_checkpoint(checkpoint)
    meta = loaded.get("meta")
    described = meta.get(META_KEY) if isinstance(meta, dict) else None
    if not isinstance(meta, dict) or not isinstance(described, dict) or "state_dict" not in loaded:
        raise UserError(
            f"{checkpoint}: does not say which encoder it holds, so it is not a pretraining checkpoint of this "
            f"suite; give the epoch_N.pth of a pretraining run"
        )
    if UNDESCRIBED in described:
        raise UserError(
            f"{checkpoint}: holds a {described[UNDESCRIBED]}, which backbone files cannot describe; only plain ViTs "
            f"can be exported, so go on with the checkpoint itself"
        )
    values = dict(described)
    values.update(epochs=meta.get("epoch"), source=Path(checkpoint).name, source_sha256=sha256_of(checkpoint))
    header = BackboneHeader.from_dict(values, str(checkpoint))
    save_backbone(out, encoder_state(loaded["state_dict"]), header)
    return header


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
        path: Backbone file exported from it.
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
    prefix = "backbone."
    weights = load_checkpoint(checkpoint)["state_dict"]
    reference.load_state_dict({k[len(prefix) :]: v for k, v in weights.items() if k.startswith(prefix)})
    reference.train(False)
    timm: Any = timm_model(path)
    shape = (images, 3, header.image_size, header.image_size)
    batch = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours: torch.Tensor = reference(batch)[-1]
        theirs = timm.forward_features(batch)
    return float((ours - theirs).abs().max())
