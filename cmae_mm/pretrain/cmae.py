"""Contrastive Masked Autoencoders (arXiv 2207.13532), as the official code trains them.

    img ---- mask -- backbone --+-- pixel_decoder ------------------------> loss_rec
                                +-- feature_decoder -- projector -- predictor -+
    img_t ---------- target_backbone -- mean -- target_projector --------------+-> loss_con

The target branch follows the online one as a moving average.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from mmpretrain.models import BaseSelfSupervisor
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from cmae_mm.pretrain.describe import describe_encoder
from cmae_mm.pretrain.masking import Mask


class Reconstruction(NamedTuple):
    """A picture of what the pixel decoder believes.

    Attributes:
        image: (N, 3, H, W) prediction of every patch, in the units of the network's input.
        mask: (N, 1, H, W), 1 where the encoder saw nothing.
    """

    image: Tensor
    mask: Tensor


@MODELS.register_module()
class CMAE(BaseSelfSupervisor):
    """Masked autoencoder with a contrastive branch.

    Args:
        backbone: Config of the online encoder; the target encoder is built from it too.
        pixel_decoder: Config of the decoder of pixels.
        feature_decoder: Config of the decoder of features, giving (N, C).
        projector: Config of the MLP on features, used twice: online and target.
        head: Config of the losses, with the predictor.
        momentum: m in ``target = m * target + (1 - m) * online``.
        target_norm: Give the target encoder the final LayerNorm (the released code does not).
        data_preprocessor: Config of the views.
        init_cfg: Config of the initialisation, on top of that of the parts.
    """

    def __init__(
        self,
        backbone: dict[str, Any],
        pixel_decoder: dict[str, Any],
        feature_decoder: dict[str, Any],
        projector: dict[str, Any],
        head: dict[str, Any],
        momentum: float = 0.996,
        target_norm: bool = False,
        data_preprocessor: dict[str, Any] | None = None,
        init_cfg: Any = None,
    ) -> None:
        super().__init__(backbone, head=head, data_preprocessor=data_preprocessor, init_cfg=init_cfg)
        self.target_backbone: nn.Module = MODELS.build({**backbone, "final_norm": target_norm})
        self.pixel_decoder: nn.Module = MODELS.build(pixel_decoder)
        self.feature_decoder: nn.Module = MODELS.build(feature_decoder)
        self.projector: nn.Module = MODELS.build(projector)
        self.target_projector: nn.Module = MODELS.build(projector)
        self.momentum = momentum
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
            ``loss_rec`` and ``loss_con``.
        """
        img, img_t = inputs
        latent, mask, ids_restore = self.backbone(img, mask=True if masks is None else masks)
        pred = self.pixel_decoder(latent, ids_restore)
        projection = self.projector((self.feature_decoder(latent, ids_restore),))[0]
        return self.head.loss(pred, img, mask, projection, self.project_target(img_t))

    @torch.no_grad()
    def project_target(self, img_t: Tensor) -> Tensor:
        """Project the mean patch token of the target encoder: (N, 3, H, W) -> (N, D)."""
        tokens = self.target_backbone(img_t, mask=None)[-1]
        return self.target_projector((tokens[:, 1:].mean(dim=1),))[0]

    def momentum_update(self) -> None:
        """Move the target branch towards the online one; call after each optimizer step.

        Parameters only: the target's batch-norm statistics come from its own batches.
        """
        self._move_target(1 - self.momentum)

    def extract_feat(self, inputs: Tensor | list[Tensor]) -> tuple[Tensor, ...]:
        """Encode whole images: a tuple with (N, 1 + L, C) tokens of the online encoder.

        Args:
            inputs: (N, 3, H, W) normalised images, or views of which the first is taken.
        """
        images = inputs if isinstance(inputs, Tensor) else inputs[0]
        return self.backbone(images, mask=None)

    @torch.no_grad()
    def reconstruct(self, inputs: Tensor | list[Tensor], masks: Mask | None = None) -> Reconstruction:
        """Predict the pixels of masked images, for figures.

        Args:
            inputs: (N, 3, H, W) normalised images, or views of which the first is taken.
            masks: Masks to use; drawn when None.
        """
        images = inputs if isinstance(inputs, Tensor) else inputs[0]
        latent, mask, ids_restore = self.backbone(images, mask=True if masks is None else masks)
        image = self.head.restore_pixels(self.pixel_decoder(latent, ids_restore), images)
        pixels = mask.unsqueeze(-1).expand(-1, -1, self.head.patch_size**2 * self.head.in_channels)
        return Reconstruction(image, self.head.unpatchify(pixels)[:, :1])

    def backbone_header(self) -> dict[str, Any]:
        """Say which encoder a checkpoint of this model holds, as fields of `BackboneHeader`."""
        return describe_encoder("cmae", self.backbone, self.data_preprocessor)

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
                targets.append(parameter)
                onlines.append(source[name])
        torch._foreach_lerp_(targets, onlines, weight)
