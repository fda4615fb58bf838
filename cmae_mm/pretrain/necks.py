"""The two decoders of CMAE. Both fill hidden places with mask tokens and see the whole grid.

The projectors and the predictor are mmpretrain's `NonLinearNeck`, configured in configs/_base_/models.
"""

from __future__ import annotations

from typing import Any

import torch
from mmpretrain.models import MAEPretrainDecoder
from mmpretrain.registry import MODELS
from torch import Tensor

from cmae_mm.pretrain.backbone import XAVIER_INIT


class MaskTokenDecoder(MAEPretrainDecoder):
    """mmpretrain's MAE decoder, cut before its last linear layer.

    Args:
        **kwargs: Arguments of `MAEPretrainDecoder`.
    """

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("init_cfg", [dict(rule) for rule in XAVIER_INIT])
        super().__init__(**kwargs)

    def decode(self, x: Tensor, ids_restore: Tensor) -> Tensor:
        """Run the decoder's blocks over visible and mask tokens.

        Args:
            x: (N, 1 + K, C) encoder tokens, class token first.
            ids_restore: (N, L), see `Mask`.

        Returns:
            (N, L, D) normalised tokens in raster order, without the class token.
        """
        x = self.decoder_embed(x)
        n, length = ids_restore.shape
        hidden = self.mask_token.to(x.dtype).expand(n, length + 1 - x.shape[1], -1)
        patches = torch.cat([x[:, 1:], hidden], dim=1)
        patches = patches.gather(1, ids_restore.unsqueeze(-1).expand(-1, -1, x.shape[-1]))
        x = torch.cat([x[:, :1], patches], dim=1) + self.decoder_pos_embed
        for block in self.decoder_blocks:
            x = block(x)
        return self.decoder_norm(x[:, 1:])


@MODELS.register_module()
class CMAEPixelDecoder(MaskTokenDecoder):
    """Predicts the pixels of every patch."""

    def forward(self, x: Tensor, ids_restore: Tensor) -> Tensor:
        """Give (N, L, patch * patch * 3) predictions, laid out (row, column, channel)."""
        return self.decoder_pred(self.decode(x, ids_restore))


@MODELS.register_module()
class CMAEFeatureDecoder(MaskTokenDecoder):
    """Predicts one feature for each image: the mean over all patches, hidden ones included.

    Official code averages after the last linear layer. The two commute, so the layer runs once for each image
    instead of L times.

    Args:
        embed_dim: Width of the encoder; features have this width unless ``predict_feature_dim`` is given.
        **kwargs: Arguments of `MAEPretrainDecoder`.
    """

    def __init__(self, *, embed_dim: int, predict_feature_dim: int | None = None, **kwargs: Any) -> None:
        width = embed_dim if predict_feature_dim is None else predict_feature_dim
        super().__init__(embed_dim=embed_dim, predict_feature_dim=width, **kwargs)

    def forward(self, x: Tensor, ids_restore: Tensor) -> Tensor:
        """Give (N, C) pooled features."""
        return self.decoder_pred(self.decode(x, ids_restore).mean(dim=1))
