"""Multi-View MAE (Ji, Han, Rhee, Appl. Sci. 2023, 13, 12413).

    view 1 -- mask -- backbone --+-- pixel_decoder --> loss_rec (own pixels)
                                 +-- projector --+
    view 2 -- mask -- backbone --+-- projector --+---> loss_con
                                 +-- pixel_decoder --> loss_rec (own pixels)

One encoder and one decoder serve both views. The abstract and the tables of the paper are known, its method section
is not: what is marked *inferred* is our reading.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from mmpretrain.models import BaseSelfSupervisor
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from cmae_mm.errors import UserError
from cmae_mm.pretrain.base import PretrainModel
from cmae_mm.pretrain.gradient_cache import Features
from cmae_mm.pretrain.masking import Mask


@MODELS.register_module()
class MultiViewMAE(PretrainModel, BaseSelfSupervisor):
    """Masked autoencoder of two views, with a contrast between their representations.

    Args:
        backbone: Config of the encoder; 80 % random masks, drawn for each view (independence: inferred).
        pixel_decoder: Config of the decoder; the depth of 8 is MAE's and ties with 4 in the paper's sweep.
        head: Config of `MultiViewPretrainHead`.
        projector: Config of the MLP between encoder and contrast (inferred: two layers, no predictor, no
            momentum copy). None trains without contrast (an ablation of the paper).
        pool: What represents a view: ``"cls"``, its class token (inferred: as in MoCo v3 and DINO, which the
            paper cites), or ``"avg"``, the mean of its visible patches.
        decode_views: ``"both"`` or only the ``"first"`` view is reconstructed (second reading of the paper's
            ablation "without two different targets"; the first is ``two_targets`` of the preprocessor).
        grad_cache: With accumulated batches (``--accumulate``): contrast them as one, exactly, for one more forward
            pass. See `cmae_mm.pretrain.gradient_cache`.
        data_preprocessor: Config of the views.
        init_cfg: Config of the initialisation, on top of that of the parts.
    """

    method: ClassVar[str] = "mv-mae"

    def __init__(
        self,
        backbone: dict[str, Any],
        pixel_decoder: dict[str, Any],
        head: dict[str, Any],
        projector: dict[str, Any] | None = None,
        pool: Literal["cls", "avg"] = "cls",
        decode_views: Literal["both", "first"] = "both",
        grad_cache: bool = False,
        data_preprocessor: dict[str, Any] | None = None,
        init_cfg: Any = None,
    ) -> None:
        if pool not in ("cls", "avg"):
            raise UserError(f"model.pool is {pool!r}; set 'cls' or 'avg'.")
        if decode_views not in ("both", "first"):
            raise UserError(f"model.decode_views is {decode_views!r}; set 'both' or 'first'.")
        super().__init__(backbone, head=head, data_preprocessor=data_preprocessor, init_cfg=init_cfg)
        self.pixel_decoder: nn.Module = MODELS.build(pixel_decoder)
        self.projector: nn.Module | None = None if projector is None else MODELS.build(projector)
        self.pool = pool
        self.decode_views = decode_views
        self.grad_cache = grad_cache and projector is not None

    def loss(  # type: ignore[override]
        self, inputs: list[Tensor], data_samples: Any = None, masks: list[Mask] | None = None
    ) -> dict[str, Tensor]:
        """Compute the losses of one batch.

        Args:
            inputs: Both views, each (N, 3, H, W) and normalised.
            data_samples: Not used.
            masks: A mask for each view; drawn when None.

        Returns:
            ``loss_rec`` and ``loss_con``, which are summed; statistics for the log, which are not.
        """
        losses, features = self._encode(inputs, masks)
        return losses if self.projector is None else losses | self.contrast(features)

    def contrast_features(self, inputs: list[Tensor]) -> Features:
        """The pooled tokens of both views, (N, C) each; see the base class."""
        return self._encode(inputs, None, reconstruct=False)[1]

    def encode_again(self, inputs: list[Tensor]) -> tuple[dict[str, Tensor], Features]:
        """See the base class."""
        return self._encode(inputs, None)

    def contrast(self, features: Features) -> dict[str, Tensor]:
        """``loss_con`` and statistics; see the base class."""
        assert self.projector is not None
        # Each view has batch statistics of its own, as in SimCLR-style code with two forward passes.
        first, second = (self.projector((view.contiguous(),))[0] for view in features)
        return self.head.contrast_losses((first, second))

    def contrast_modules(self) -> tuple[nn.Module, ...]:
        """See the base class."""
        return () if self.projector is None else (self.projector,)

    def _encode(
        self, inputs: list[Tensor], masks: list[Mask] | None, reconstruct: bool = True
    ) -> tuple[dict[str, Tensor], Features]:
        """What needs no other image of the batch: ``loss_rec`` and its statistics, and both views' features."""
        n = len(inputs[0])
        both = torch.cat(list(inputs))  # one pass of the encoder: the views share it
        mask = Mask(*(torch.cat(parts) for parts in zip(*masks, strict=True))) if masks else None
        mask = self.draw_masks(both, mask)
        latent = self.backbone(both, mask)[0]
        patches = latent[:, self.backbone.num_extra_tokens :]
        pooled = latent[:, 0] if self.pool == "cls" else patches.mean(dim=1)
        features = tuple(pooled.chunk(2))
        if not reconstruct:
            return {}, features
        decoded = len(both) if self.decode_views == "both" else n
        chosen = Mask(*(part[:decoded] for part in mask))
        pred = self.pixel_decoder(latent[:decoded], chosen)
        # Equally many hidden patches in each view: the mean over all is the mean of the views' losses.
        return self.head.reconstruction(pred, both[:decoded], chosen), features
