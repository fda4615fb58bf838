"""Losses of pretraining: normalised pixels of hidden patches, and a contrast between views."""

from __future__ import annotations

from typing import Any, Literal

import torch
from mmengine.dist import get_rank, get_world_size
from mmpretrain.models import MAEPretrainHead
from mmpretrain.registry import MODELS
from torch import Tensor

from cmae_mm.errors import UserError
from cmae_mm.pretrain.contrast import Contrast, byol_loss, count_samples, gather, info_nce, nt_xent, spread
from cmae_mm.pretrain.masking import Mask, take


@MODELS.register_module()
class HiddenPixelHead(MAEPretrainHead):
    """mmpretrain's MAE head on the hidden patches alone: equal loss, without work on visible ones.

    Args:
        patch_size: Side of a patch in pixels.
        norm_pix: Compare with pixels normalised within each patch (unbiased variance).
        in_channels: Image channels.
        uneven_batches: Whether processes may hold different numbers of images, as in a last batch that nothing fills
            up. Losses are then weighted so that the mean over processes is the mean over images.
    """

    def __init__(
        self,
        patch_size: int = 16,
        norm_pix: bool = True,
        in_channels: int = 3,
        uneven_batches: bool = False,
    ) -> None:
        super().__init__(
            loss={"type": "PixelReconstructionLoss", "criterion": "L2"},
            norm_pix=norm_pix,
            patch_size=patch_size,
            in_channels=in_channels,
        )
        self.uneven_batches = uneven_batches

    def counts(self, images: int) -> list[int] | None:
        """Images of each process, asked for only where they may differ."""
        return count_samples(images) if self.uneven_batches else None

    def share(self, images: int, counts: list[int] | None) -> float:
        """Weight of this process in the mean over processes: 1 where all hold equally many images."""
        return 1.0 if counts is None else images * get_world_size() / sum(counts)

    def hidden_target(self, images: Tensor, masks: Mask) -> Tensor:
        """Cut the hidden patches out of (N, 3, H, W) images: (N, L - K, patch * patch * 3), float32."""
        ids_hidden = masks.ids_shuffle[:, masks.ids_keep.shape[1] :]
        target = take(self.patchify(images.float()), ids_hidden)
        if self.norm_pix:
            spread_, mean = torch.var_mean(target, dim=-1, keepdim=True)
            target = (target - mean) / (spread_ + 1e-6).sqrt()
        return target

    def reconstruction_loss(self, pred: Tensor, images: Tensor, masks: Mask) -> Tensor:
        """Mean squared error over the hidden patches, in float32.

        Args:
            pred: (N, L - K, patch * patch * 3) predictions of the hidden patches, as `CMAEPixelDecoder` orders
                them.
            images: (N, 3, H, W) normalised images that were masked.
            masks: Their masks.
        """
        with torch.autocast(pred.device.type, enabled=False):
            loss = self.loss_module(pred.float(), self.hidden_target(images, masks))
            return loss * self.share(len(images), self.counts(len(images)))

    def loss(self, pred: Tensor, images: Tensor, masks: Mask) -> dict[str, Tensor]:  # type: ignore[override]
        """Give ``loss_rec``; arguments as in :meth:`reconstruction_loss`."""
        return {"loss_rec": self.reconstruction_loss(pred, images, masks)}

    def restore_pixels(self, pred: Tensor, images: Tensor) -> Tensor:
        """Turn predictions into an image, giving each patch the mean and spread of the true one.

        Args:
            pred: (N, L, patch * patch * 3), every patch in raster order.
            images: (N, 3, H, W) normalised images that were encoded.

        Returns:
            (N, 3, H, W) in the units of ``images``.
        """
        pred = pred.float()
        if self.norm_pix:
            true = self.patchify(images.float())
            pred = pred * (true.var(dim=-1, keepdim=True) + 1e-6).sqrt() + true.mean(dim=-1, keepdim=True)
        return self.unpatchify(pred)


def contrast_log(contrast: Contrast, query: Tensor, target: Tensor) -> dict[str, Tensor]:
    """Name the statistics of a contrast for the log: scalars without gradient.

    Args:
        contrast: The loss before weights.
        query: (N, D) features whose spread is ``feat_std``.
        target: (N, D) features whose spread is ``target_std``.
    """
    return {
        "raw_con": contrast.loss.detach(),
        "con_acc": contrast.accuracy,
        "pos_sim": contrast.positive,
        "neg_sim": contrast.negative,
        "feat_std": spread(query),
        "target_std": spread(target),
    }


@MODELS.register_module()
class CMAEPretrainHead(HiddenPixelHead):
    """Reconstruction and contrastive loss of CMAE (paper, section 3.4; official head).

    Args:
        predictor: Config of the MLP on the online projection.
        contrast: ``"infonce"``, or ``"byol"``: distance to the own target, without negatives (an ablation).
        temperature: Of InfoNCE.
        contrastive_scale: ``"2tau"`` multiplies InfoNCE by 2 * temperature (released code, after MoCo v3),
            ``"1"`` does not (paper). BYOL's loss is not scaled.
        rec_weight: Weight of the reconstruction loss.
        con_weight: Weight of the contrastive loss, on top of its scale.
        **kwargs: Arguments of `HiddenPixelHead`.
    """

    def __init__(
        self,
        predictor: dict[str, Any],
        contrast: Literal["infonce", "byol"] = "infonce",
        temperature: float = 0.07,
        contrastive_scale: Literal["2tau", "1"] = "2tau",
        rec_weight: float = 1.0,
        con_weight: float = 1.0,
        **kwargs: Any,
    ) -> None:
        if contrastive_scale not in ("2tau", "1"):
            raise UserError(f"head.contrastive_scale is {contrastive_scale!r}; set '2tau' or '1'.")
        if contrast not in ("infonce", "byol"):
            raise UserError(f"head.contrast is {contrast!r}; set 'infonce' or 'byol'.")
        super().__init__(**kwargs)
        self.predictor = MODELS.build(predictor)
        self.contrast = contrast
        self.temperature = temperature
        self.contrastive_scale = contrastive_scale
        self.rec_weight = rec_weight
        self.con_weight = con_weight

    def loss(  # type: ignore[override]
        self, pred: Tensor, images: Tensor, masks: Mask, projection: Tensor, target: Tensor
    ) -> dict[str, Tensor]:
        """Compute both losses.

        Args:
            pred: (N, L - K, patch * patch * 3) predicted pixels of the hidden patches.
            images: (N, 3, H, W) normalised online view.
            masks: Masks of the online view.
            projection: (N, D) online projection.
            target: (N, D) target projection, without gradient.

        Returns:
            ``loss_rec`` and ``loss_con``, weighted scalars that are summed; statistics, which are not.
        """
        return self.reconstruction(pred, images, masks) | self.contrast_losses(projection, target)

    def reconstruction(self, pred: Tensor, images: Tensor, masks: Mask) -> dict[str, Tensor]:
        """Give ``loss_rec``, weighted, and ``raw_rec``; arguments as in :meth:`loss`."""
        raw = self.reconstruction_loss(pred, images, masks)
        return {"loss_rec": self.rec_weight * raw, "raw_rec": raw.detach()}

    def contrast_losses(self, projection: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Give ``loss_con``, weighted, and its statistics; arguments as in :meth:`loss`."""
        query = self.predictor((projection,))[0]
        contrast = self.contrastive_loss(query, target)
        loss = self.con_weight * self.scale * contrast.loss
        return {"loss_con": loss, **contrast_log(contrast, query, target)}

    @property
    def scale(self) -> float:
        """Factor of the contrastive loss before its weight."""
        scaled = self.contrast == "infonce" and self.contrastive_scale == "2tau"
        return 2 * self.temperature if scaled else 1.0

    def contrastive_loss(self, query: Tensor, target: Tensor) -> Contrast:
        """Contrast (N, D) predictions with targets, before scale and weight.

        InfoNCE compares with the targets of all processes.
        """
        counts = self.counts(len(query))
        share = self.share(len(query), counts)
        if self.contrast == "byol":
            contrast = byol_loss(query, target.detach())
        else:
            keys = gather(target.detach().float(), counts=counts)
            before = get_rank() * len(query) if counts is None else sum(counts[: get_rank()])
            contrast = info_nce(query, keys, self.temperature, offset=before)
        return contrast._replace(loss=contrast.loss * share)


@MODELS.register_module()
class MultiViewPretrainHead(HiddenPixelHead):
    """Reconstruction of the views and a contrast between them (Multi-View MAE, section 3.2).

    The paper's text on the contrastive loss could not be read; the defaults are inferred.

    Args:
        temperature: Of the contrast; inferred, as in SimCLR.
        con_weight: Lambda in ``L_rec + lambda * L_con``; inferred: the best value of the paper's sweep.
        **kwargs: Arguments of `HiddenPixelHead`.
    """

    def __init__(self, temperature: float = 0.1, con_weight: float = 2.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.temperature = temperature
        self.con_weight = con_weight

    def loss(  # type: ignore[override]
        self, pred: Tensor, images: Tensor, masks: Mask, projections: tuple[Tensor, Tensor] | None
    ) -> dict[str, Tensor]:
        """Compute both losses.

        Args:
            pred: (B, L - K, patch * patch * 3) predicted pixels of the decoded views, one below the other.
            images: (B, 3, H, W) these views, normalised.
            masks: Their masks.
            projections: (N, D) of both views; None leaves the contrast out.

        Returns:
            ``loss_rec``, the mean over decoded views, and ``loss_con``, weighted; statistics.
        """
        losses = self.reconstruction(pred, images, masks)
        return losses if projections is None else losses | self.contrast_losses(projections)

    def reconstruction(self, pred: Tensor, images: Tensor, masks: Mask) -> dict[str, Tensor]:
        """Give ``loss_rec`` and ``raw_rec``; arguments as in :meth:`loss`."""
        raw = self.reconstruction_loss(pred, images, masks)
        return {"loss_rec": raw, "raw_rec": raw.detach()}

    def contrast_losses(self, projections: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """Give ``loss_con``, weighted, and its statistics; argument as in :meth:`loss`."""
        counts = self.counts(len(projections[0]))
        contrast = nt_xent(*projections, self.temperature, counts)
        loss = self.con_weight * contrast.loss * self.share(len(projections[0]), counts)
        return {"loss_con": loss, **contrast_log(contrast, *projections)}
