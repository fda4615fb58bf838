"""Masked autoencoder (arXiv 2111.06377): mmpretrain's, on the parts that CMAE uses.

img -- mask -- backbone -- neck -- loss_rec
"""

from __future__ import annotations

from typing import Any, ClassVar

from mmpretrain.models import MAE
from mmpretrain.registry import MODELS
from torch import Tensor

from cmae_mm.pretrain.base import PretrainModel
from cmae_mm.pretrain.masking import Mask


@MODELS.register_module()
class PlainMAE(PretrainModel, MAE):
    """mmpretrain's `MAE`, with masks that can be injected, pictures and a header for its encoder.

    Built from `CMAEViT` with random masks, `CMAEPixelDecoder` and `HiddenPixelHead`, it has the state-dict keys
    and the loss of mmpretrain's own, and predicts hidden patches only.

    Args:
        **kwargs: Arguments of `MAE`: ``backbone``, ``neck``, ``head``, ``data_preprocessor``.
    """

    method: ClassVar[str] = "mae"
    decoder_name: ClassVar[str] = "neck"

    def loss(  # type: ignore[override]
        self, inputs: Tensor, data_samples: Any = None, masks: Mask | None = None
    ) -> dict[str, Tensor]:
        """Compute the loss of one batch.

        Args:
            inputs: (N, 3, H, W) normalised images.
            data_samples: Not used.
            masks: Masks to use; drawn when None.

        Returns:
            ``loss_rec``.
        """
        masks = self.draw_masks(inputs, masks)
        latent = self.backbone(inputs, masks)[0]
        return self.head.loss(self.neck(latent, masks), inputs, masks)
