"""What every pretraining model of the suite can do beside training: features, pictures, a header."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from cmae_mm.pretrain.describe import describe_encoder
from cmae_mm.pretrain.gradient_cache import CachedGradients, Features, cached_train_step, surrogate_loss
from cmae_mm.pretrain.masking import Mask


class Reconstruction(NamedTuple):
    """A picture of what the pixel decoder believes.

    Attributes:
        image: (N, 3, H, W) prediction of every patch, in the units of the network's input.
        mask: (N, 1, H, W), 1 where the encoder saw nothing.
    """

    image: Tensor
    mask: Tensor


class PretrainModel:
    """Mixed into the algorithms: expects ``backbone``, ``head``, ``data_preprocessor`` and a pixel decoder.

    Attributes:
        method: Name of the method in the backbone file's header.
        decoder_name: Attribute that holds the `CMAEPixelDecoder`.
        grad_cache: Whether accumulated batches are contrasted as one, see `cmae_mm.pretrain.gradient_cache`.
    """

    method: ClassVar[str]
    decoder_name: ClassVar[str] = "pixel_decoder"
    backbone: Any
    head: Any
    data_preprocessor: Any
    grad_cache: bool = False

    def forward(self, inputs: Any, data_samples: Any = None, mode: str = "tensor") -> Any:
        """See mmpretrain; the mode ``cached`` gives losses and a surrogate of a small batch of a contrasted whole.

        Args:
            inputs: Views, normalised.
            data_samples: For ``cached`` the small batch's `CachedGradients`.
            mode: ``tensor``, ``predict``, ``loss`` or ``cached``.
        """
        if mode != "cached":
            return super().forward(inputs, data_samples, mode)  # type: ignore[misc]
        assert isinstance(data_samples, CachedGradients)
        losses, features = self.encode_again(inputs)
        weights = list(self.contrast_parameters())
        return losses | {"surrogate": surrogate_loss(losses, features, weights, data_samples)}

    def train_together(
        self, wrapper: Any, batches: Sequence[Any], optim_wrapper: Any
    ) -> list[dict[str, Tensor]]:
        """Train on accumulated batches as on one; see :func:`cmae_mm.pretrain.gradient_cache.cached_train_step`."""
        return cached_train_step(wrapper, batches, optim_wrapper)

    def contrast_features(self, inputs: Any) -> Features:
        """Compute what the contrast compares, without reconstructing: tensors of one row for each image."""
        raise NotImplementedError

    def encode_again(self, inputs: Any) -> tuple[dict[str, Tensor], Features]:
        """Compute the losses that need no other image, and the features that a gradient comes back to.

        Args:
            inputs: Views, normalised.

        Returns:
            Losses and statistics; the first ones of `contrast_features`, with gradient.
        """
        raise NotImplementedError

    def contrast(self, features: Features) -> dict[str, Tensor]:
        """Contrast the features of `contrast_features`: ``loss_con`` and statistics."""
        raise NotImplementedError

    def contrast_modules(self) -> tuple[nn.Module, ...]:
        """Modules that learn from the contrast alone."""
        return ()

    def contrast_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters of `contrast_modules` that are trained."""
        return (p for module in self.contrast_modules() for p in module.parameters() if p.requires_grad)

    def draw_masks(self, images: Tensor, masks: Mask | None = None) -> Mask:
        """Give ``masks``, or draw one for each of the (N, 3, H, W) images."""
        return self.backbone.draw_mask(len(images), images.device) if masks is None else masks

    def extract_feat(self, inputs: Tensor | list[Tensor]) -> tuple[Tensor, ...]:
        """Encode whole images: a tuple with the tokens of the online encoder, class token (if any) first.

        Args:
            inputs: (N, 3, H, W) normalised images, or views of which the first is taken.
        """
        images = inputs if isinstance(inputs, Tensor) else inputs[0]
        return self.backbone(images, mask=None)

    def pool_feat(self, inputs: Tensor | list[Tensor]) -> Tensor:
        """Average the patch tokens of whole images: (N, C)."""
        return self.extract_feat(inputs)[-1][:, self.backbone.num_extra_tokens :].mean(dim=1)

    @torch.no_grad()
    def reconstruct(self, inputs: Tensor | list[Tensor], masks: Mask | None = None) -> Reconstruction:
        """Predict the pixels of masked images, for figures.

        Args:
            inputs: (N, 3, H, W) normalised images, or views of which the first is taken.
            masks: Masks to use; drawn when None.
        """
        images = inputs if isinstance(inputs, Tensor) else inputs[0]
        masks = self.draw_masks(images, masks)
        latent = self.backbone(images, masks)[0]
        pred = getattr(self, self.decoder_name).predict_all(latent, masks)
        hidden = masks.mask.unsqueeze(-1).expand(-1, -1, self.head.patch_size**2 * self.head.in_channels)
        return Reconstruction(self.head.restore_pixels(pred, images), self.head.unpatchify(hidden)[:, :1])

    def backbone_header(self) -> dict[str, Any]:
        """Say which encoder a checkpoint of this model holds, as fields of `BackboneHeader`."""
        return describe_encoder(self.method, self.backbone, self.data_preprocessor)
