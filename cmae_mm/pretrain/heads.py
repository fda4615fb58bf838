"""Losses of CMAE: normalised pixels of hidden patches, and InfoNCE against the target branch."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from mmengine.dist import all_gather, get_rank
from mmpretrain.models import MAEPretrainHead
from mmpretrain.registry import MODELS
from torch import Tensor

from cmae_mm.errors import UserError


def info_nce(query: Tensor, keys: Tensor, temperature: float, offset: int = 0) -> Tensor:
    """Cross-entropy of matching each query with its own key among all keys.

    Args:
        query: (N, D), any length; normalised here.
        keys: (M, D), M >= N; normalised here.
        temperature: Divides the cosine similarities.
        offset: Query i belongs to key ``offset + i``.

    Returns:
        Scalar, the mean over queries, in float32.
    """
    # In float32 whatever autocast says: similarities over 0.07 reach 14, where bfloat16 has steps of 0.06.
    with torch.autocast(query.device.type, enabled=False):
        query, keys = F.normalize(query.float(), dim=-1), F.normalize(keys.float(), dim=-1)
        labels = torch.arange(offset, offset + len(query), device=query.device)
        return F.cross_entropy(query @ keys.t() / temperature, labels)


@MODELS.register_module()
class CMAEPretrainHead(MAEPretrainHead):
    """Reconstruction and contrastive loss of CMAE (paper, section 3.4; official head).

    Args:
        predictor: Config of the MLP on the online projection.
        patch_size: Side of a patch in pixels.
        norm_pix: Compare with pixels normalised within each patch (unbiased variance).
        temperature: Of InfoNCE.
        contrastive_scale: ``"2tau"`` multiplies InfoNCE by 2 * temperature (released code, after MoCo v3),
            ``"1"`` does not (paper).
        rec_weight: Weight of the reconstruction loss.
        con_weight: Weight of the contrastive loss, on top of its scale.
        in_channels: Image channels.
    """

    def __init__(
        self,
        predictor: dict[str, Any],
        patch_size: int = 16,
        norm_pix: bool = True,
        temperature: float = 0.07,
        contrastive_scale: Literal["2tau", "1"] = "2tau",
        rec_weight: float = 1.0,
        con_weight: float = 1.0,
        in_channels: int = 3,
    ) -> None:
        if contrastive_scale not in ("2tau", "1"):
            raise UserError(f"head.contrastive_scale is {contrastive_scale!r}; set '2tau' or '1'.")
        super().__init__(
            loss={"type": "PixelReconstructionLoss", "criterion": "L2"},
            norm_pix=norm_pix,
            patch_size=patch_size,
            in_channels=in_channels,
        )
        self.predictor = MODELS.build(predictor)
        self.temperature = temperature
        self.contrastive_scale = contrastive_scale
        self.rec_weight = rec_weight
        self.con_weight = con_weight

    def loss(  # type: ignore[override]
        self, pred: Tensor, images: Tensor, mask: Tensor, projection: Tensor, target: Tensor
    ) -> dict[str, Tensor]:
        """Compute both losses.

        Args:
            pred: (N, L, patch * patch * 3) predicted pixels.
            images: (N, 3, H, W) normalised online view.
            mask: (N, L), 1 = removed.
            projection: (N, D) online projection.
            target: (N, D) target projection, without gradient.

        Returns:
            ``loss_rec`` and ``loss_con``, weighted scalars.
        """
        return {
            "loss_rec": self.rec_weight * self.reconstruction_loss(pred, images, mask),
            "loss_con": self.con_weight * self.contrastive_loss(projection, target),
        }

    def reconstruction_loss(self, pred: Tensor, images: Tensor, mask: Tensor) -> Tensor:
        """Mean squared error over the hidden patches, in float32."""
        with torch.autocast(pred.device.type, enabled=False):
            return self.loss_module(pred.float(), self.construct_target(images.float()), mask)

    def contrastive_loss(self, projection: Tensor, target: Tensor) -> Tensor:
        """Scaled InfoNCE against the targets of all processes, which must hold equally many samples."""
        query = self.predictor((projection,))[0]
        keys = torch.cat(all_gather(target.detach().float().contiguous()))
        loss = info_nce(query, keys, self.temperature, offset=get_rank() * len(query))
        return loss * (2 * self.temperature if self.contrastive_scale == "2tau" else 1.0)

    def restore_pixels(self, pred: Tensor, images: Tensor) -> Tensor:
        """Turn predictions into an image, giving each patch the mean and spread of the true one.

        Args:
            pred: (N, L, patch * patch * 3).
            images: (N, 3, H, W) normalised images that were encoded.

        Returns:
            (N, 3, H, W) in the units of ``images``.
        """
        pred = pred.float()
        if self.norm_pix:
            true = self.patchify(images.float())
            pred = pred * (true.var(dim=-1, keepdim=True) + 1e-6).sqrt() + true.mean(dim=-1, keepdim=True)
        return self.unpatchify(pred)
