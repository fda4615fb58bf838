"""Contrastive Masked Autoencoders (arXiv 2207.13532), as the official code trains them.

    img ---- mask -- backbone --+-- pixel_decoder ------------------------> loss_rec
                                +-- feature_decoder -- projector -- predictor -+
    img_t ---------- target_backbone -- mean -- target_projector --------------+-> loss_con

The target branch follows the online one as a moving average.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import torch
from mmpretrain.models import BaseSelfSupervisor
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from cmae_mm.engine.sharding import own_part
from cmae_mm.errors import UserError
from cmae_mm.pretrain.base import PretrainModel
from cmae_mm.pretrain.gradient_cache import Features
from cmae_mm.pretrain.masking import Mask


def cosine_momentum(start: float, end: float, progress: float) -> float:
    """Momentum after a part of the run: ``start`` at 0, ``end`` at 1, a half cosine between (BYOL, section 3.2).

    Args:
        start: First momentum.
        end: Last momentum.
        progress: Share of the iterations that are done, 0 to 1.
    """
    return end - (end - start) * (math.cos(math.pi * progress) + 1) / 2


@MODELS.register_module()
class CMAE(PretrainModel, BaseSelfSupervisor):
    """Masked autoencoder with a contrastive branch.

    Args:
        backbone: Config of the online encoder; the target encoder is built from it too.
        pixel_decoder: Config of the decoder of pixels.
        feature_decoder: Config of the decoder of features, giving (N, C): `CMAEFeatureDecoder`, or the
            ablations `SharedFeatureDecoder` and `VisibleMean`. What it decodes is the encoder's tokens, or the
            pixel decoder's if it ``reads_pixel_tokens``.
        projector: Config of the MLP on features, used twice: online and target.
        head: Config of the losses, with the predictor.
        momentum: m in ``target = m * target + (1 - m) * online``.
        end_momentum: Momentum at the end of the run, reached by a cosine; None keeps ``momentum``.
        target_norm: Give the target encoder the final LayerNorm (the released code does not).
        target_input: ``"full"`` shows the target encoder the whole view, ``"masked"`` the visible patches of a
            mask of its own (an ablation).
        grad_cache: With accumulated batches (``--accumulate``): contrast them as one, exactly, for one more forward
            pass. See `cmae_mm.pretrain.gradient_cache`.
        data_preprocessor: Config of the views.
        init_cfg: Config of the initialisation, on top of that of the parts.
    """

    method: ClassVar[str] = "cmae"

    def __init__(
        self,
        backbone: dict[str, Any],
        pixel_decoder: dict[str, Any],
        feature_decoder: dict[str, Any],
        projector: dict[str, Any],
        head: dict[str, Any],
        momentum: float = 0.996,
        end_momentum: float | None = None,
        target_norm: bool = False,
        target_input: Literal["full", "masked"] = "full",
        grad_cache: bool = False,
        data_preprocessor: dict[str, Any] | None = None,
        init_cfg: Any = None,
    ) -> None:
        if target_input not in ("full", "masked"):
            raise UserError(f"model.target_input is {target_input!r}; set 'full' or 'masked'.")
        super().__init__(backbone, head=head, data_preprocessor=data_preprocessor, init_cfg=init_cfg)
        changes = {"final_norm": target_norm} | (
            {"fusion": False} if hasattr(self.backbone, "fusion") else {}
        )
        self.target_backbone: Any = MODELS.build({**backbone, **changes})
        self.pixel_decoder: Any = MODELS.build(pixel_decoder)
        self.feature_decoder: Any = MODELS.build(feature_decoder)
        self.projector: Any = MODELS.build(projector)
        self.target_projector: Any = MODELS.build(projector)
        self.momentum = momentum
        self.end_momentum = momentum if end_momentum is None else end_momentum
        self.current_momentum = momentum
        self.target_input = target_input
        self.grad_cache = grad_cache
        self.target_backbone.requires_grad_(False)
        self.target_projector.requires_grad_(False)

    def init_weights(self) -> None:
        """Initialise the parts, then start the target branch at the online one."""
        super().init_weights()
        self._move_target(1.0)

    def loss(  # type: ignore[override]
        self, inputs: list[Tensor], data_samples: Any = None, masks: Mask | None = None
    ) -> dict[str, Tensor]:
        """Compute the losses of one batch.

        Args:
            inputs: Online and target view, each (N, 3, H, W) and normalised.
            data_samples: Not used.
            masks: Masks of the online view; drawn when None.

        Returns:
            ``loss_rec`` and ``loss_con``, which are summed; statistics for the log, which are not.
        """
        img, img_t = inputs
        losses, feature = self._encode_online(img, masks)
        return losses | self.contrast((feature, self.pool_target(img_t)))

    def contrast_features(self, inputs: list[Tensor]) -> Features:
        """The decoded feature and the target's pooled tokens, (N, C) each; see the base class."""
        img, img_t = inputs
        return self._encode_online(img, None, reconstruct=False)[1], self.pool_target(img_t)

    def encode_again(self, inputs: list[Tensor]) -> tuple[dict[str, Tensor], Features]:
        """See the base class; the target branch has no gradient, so it is left out."""
        losses, feature = self._encode_online(inputs[0], None)
        return losses, (feature,)

    def _encode_online(
        self, img: Tensor, masks: Mask | None, reconstruct: bool = True
    ) -> tuple[dict[str, Tensor], Tensor]:
        """What needs no other image of the batch: ``loss_rec`` and its statistics, and the decoded feature (N, C)."""
        masks = self.draw_masks(img, masks)
        latent = self.backbone(img, masks)[0]
        pred: Tensor | None = None
        if self.feature_decoder.reads_pixel_tokens:
            tokens = self.pixel_decoder.decode(latent, masks)
            feature = self.feature_decoder(tokens, masks)
            if reconstruct:
                pred = self.pixel_decoder.finish(tokens[:, masks.ids_keep.shape[1] :])
        else:
            feature = self.feature_decoder(latent, masks)
            if reconstruct:
                pred = self.pixel_decoder(latent, masks)
        return {} if pred is None else self.head.reconstruction(pred, img, masks), feature

    def contrast(self, features: Features) -> dict[str, Tensor]:
        """``loss_con`` and statistics; see the base class."""
        feature, pooled = features
        with torch.no_grad():
            target = self.target_projector((pooled,))[0]
        losses = self.head.contrast_losses(self.projector((feature,))[0], target)
        return losses | {"momentum": torch.tensor(self.current_momentum)}

    def contrast_modules(self) -> tuple[nn.Module, ...]:
        """See the base class."""
        return self.projector, self.head.predictor

    @torch.no_grad()
    def pool_target(self, img_t: Tensor) -> Tensor:
        """Average the patch tokens of the target encoder: (N, 3, H, W) -> (N, C)."""
        if self.target_input == "masked":
            tokens = self.target_backbone(img_t, self.draw_masks(img_t))[0]
        else:
            tokens = self.target_backbone(img_t, mask=None)[-1]
        return tokens[:, self.backbone.num_extra_tokens :].mean(dim=1)

    @torch.no_grad()
    def project_target(self, img_t: Tensor) -> Tensor:
        """Project the mean patch token of the target encoder: (N, 3, H, W) -> (N, D)."""
        return self.target_projector((self.pool_target(img_t),))[0]

    def momentum_update(self, progress: float = 0.0) -> None:
        """Move the target branch towards the online one; call after each optimizer step.

        Parameters only: the target's batch-norm statistics come from its own batches.

        Args:
            progress: Share of the run that was done before this step, 0 to 1.
        """
        self.current_momentum = cosine_momentum(self.momentum, self.end_momentum, progress)
        self._move_target(1 - self.current_momentum)

    @torch.no_grad()
    def _move_target(self, weight: float) -> None:
        """``target += weight * (online - target)`` for every target parameter, in few kernels."""
        targets: list[Tensor] = []
        onlines: list[Tensor] = []
        for target, online in (
            (self.target_backbone, self.backbone),
            (self.target_projector, self.projector),
        ):
            source = dict(online.named_parameters())  # has more: the final norm
            for name, parameter in target.named_parameters():
                targets.append(own_part(parameter))  # of a split model each process moves its part
                onlines.append(own_part(source[name]))
        torch._foreach_lerp_(targets, onlines, weight)
