"""Decoders: they fill hidden places with mask tokens and see the whole grid.

Inside, tokens stand in the order visible, hidden (`Mask.ids_shuffle`): attention does not mind, positions are
added to match, and so nothing has to be un-shuffled. The projectors and predictors are mmpretrain's
`NonLinearNeck`, configured in configs/_base_/models.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from mmengine.model import BaseModule
from mmpretrain.models import MAEPretrainDecoder
from mmpretrain.models.utils import build_2d_sincos_position_embedding
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from cmae_mm.errors import UserError
from cmae_mm.pretrain.backbone import XAVIER_INIT, zero_mlp_biases
from cmae_mm.pretrain.blocks import as_blocks
from cmae_mm.pretrain.masking import Mask, take

TokenSet = Literal["all", "visible", "masked"]


class MaskTokenDecoder(MAEPretrainDecoder):
    """mmpretrain's MAE decoder, cut before its last linear layer.

    Args:
        class_token: Whether the encoder's tokens start with a class token (a hybrid ViT has none).
        **kwargs: Arguments of `MAEPretrainDecoder`.
    """

    def __init__(self, *, class_token: bool = True, **kwargs: Any) -> None:
        kwargs.setdefault("init_cfg", [dict(rule) for rule in XAVIER_INIT])
        super().__init__(**kwargs)
        as_blocks(self.decoder_blocks)
        self.class_token = class_token
        if not class_token:
            width = self.decoder_embed.out_features
            table = torch.zeros(1, self.num_patches, width)
            self.decoder_pos_embed: nn.Parameter = nn.Parameter(table, requires_grad=False)

    def init_weights(self) -> None:
        """Initialise as the official code does: xavier, zero biases, sin-cos positions."""
        BaseModule.init_weights(self)
        zero_mlp_biases(self.decoder_blocks)
        table = build_2d_sincos_position_embedding(
            int(self.num_patches**0.5), self.decoder_pos_embed.shape[-1], cls_token=self.class_token
        )
        self.decoder_pos_embed.data.copy_(table.float())
        nn.init.normal_(self.mask_token, std=0.02)

    def decode(self, latent: Tensor, masks: Mask, hidden_only: bool = False) -> Tensor:
        """Run the decoder's blocks over visible and mask tokens.

        Args:
            latent: (N, K, C) encoder tokens, after a class token if the encoder has one.
            masks: The masks that the encoder saw.
            hidden_only: Leave the visible tokens out of the last block's result.

        Returns:
            Tokens before the final norm, without the class token: (N, L, D) with the visible ones first, or the
            hidden ones, (N, L - K, D).
        """
        x = self.decoder_embed(latent)
        n, length = masks.ids_restore.shape
        extra = int(self.class_token)
        hidden = self.mask_token.to(x.dtype).expand(n, length + extra - x.shape[1], -1)
        places = self.decoder_pos_embed[0, extra:][masks.ids_shuffle]
        if extra:
            places = torch.cat([self.decoder_pos_embed[:, :1].expand(n, -1, -1), places], dim=1)
        x = torch.cat([x, hidden], dim=1) + places
        for block in self.decoder_blocks[:-1]:
            x = block(x)
        return self.decoder_blocks[-1](x, first=extra + hidden_only * masks.ids_keep.shape[1])

    def finish(self, tokens: Tensor) -> Tensor:
        """Apply the final norm and the last linear layer to some tokens of :meth:`decode`."""
        return self.decoder_pred(self.decoder_norm(tokens))


@MODELS.register_module()
class CMAEPixelDecoder(MaskTokenDecoder):
    """Predicts the pixels of patches, each laid out (row, column, channel)."""

    def forward(self, latent: Tensor, masks: Mask) -> Tensor:
        """Predict hidden patches only: (N, L - K, patch * patch * 3), in the order of ``ids_shuffle``."""
        return self.finish(self.decode(latent, masks, hidden_only=True))

    def predict_all(self, latent: Tensor, masks: Mask) -> Tensor:
        """Predict every patch: (N, L, patch * patch * 3) in raster order."""
        return take(self.finish(self.decode(latent, masks)), masks.ids_restore)


def average(tokens: Tensor, visible: int, token_set: TokenSet) -> Tensor:
    """Average tokens that stand in the order visible, hidden: (N, L, D) -> (N, D).

    Args:
        tokens: (N, L, D).
        visible: Number of visible tokens.
        token_set: ``"all"``, ``"visible"`` or ``"masked"``.
    """
    chosen = {"all": slice(None), "visible": slice(visible), "masked": slice(visible, None)}[token_set]
    return tokens[:, chosen].mean(dim=1)


def _check_token_set(token_set: str) -> None:
    if token_set not in ("all", "visible", "masked"):
        raise UserError(f"feature_decoder.token_set is {token_set!r}; set 'all', 'visible' or 'masked'.")


@MODELS.register_module()
class CMAEFeatureDecoder(MaskTokenDecoder):
    """Predicts one feature for each image: the mean over patches, hidden ones included.

    Official code averages after the last linear layer. The two commute, so the layer runs once for each image
    instead of L times.

    Args:
        embed_dim: Width of the encoder; features have this width unless ``predict_feature_dim`` is given.
        token_set: Which patches the feature is the mean of (CMAE, table 3e): all, visible or masked.
        **kwargs: Arguments of `MAEPretrainDecoder`.
    """

    reads_pixel_tokens: ClassVar[bool] = False

    def __init__(
        self,
        *,
        embed_dim: int,
        token_set: TokenSet = "all",
        predict_feature_dim: int | None = None,
        **kwargs: Any,
    ) -> None:
        _check_token_set(token_set)
        width = embed_dim if predict_feature_dim is None else predict_feature_dim
        super().__init__(embed_dim=embed_dim, predict_feature_dim=width, **kwargs)
        self.token_set = token_set

    def forward(self, latent: Tensor, masks: Mask) -> Tensor:
        """Give (N, C) pooled features of (N, K, C) encoder tokens."""
        tokens = self.decoder_norm(self.decode(latent, masks))
        return self.decoder_pred(average(tokens, masks.ids_keep.shape[1], self.token_set))


@MODELS.register_module()
class SharedFeatureDecoder(BaseModule):
    """The feature decoder that shares its weights with the pixel decoder (an ablation of CMAE).

    The pixel decoder's tokens are used, which exist anyway; a norm and a linear layer make the feature.

    Args:
        embed_dim: Width of the features, that of the encoder.
        decoder_embed_dim: Width of the pixel decoder.
        token_set: Which patches the feature is the mean of.
        init_cfg: Initialisation; that of the decoders by default.
    """

    reads_pixel_tokens: ClassVar[bool] = True

    def __init__(
        self,
        embed_dim: int,
        decoder_embed_dim: int = 512,
        token_set: TokenSet = "all",
        init_cfg: Any = None,
    ) -> None:
        _check_token_set(token_set)
        super().__init__(init_cfg or [dict(rule) for rule in XAVIER_INIT])
        self.ln1 = nn.LayerNorm(decoder_embed_dim, eps=1e-6)
        self.decoder_pred = nn.Linear(decoder_embed_dim, embed_dim)
        self.token_set = token_set

    def forward(self, tokens: Tensor, masks: Mask) -> Tensor:
        """Give (N, C) pooled features of the pixel decoder's (N, L, D) tokens."""
        return self.decoder_pred(average(self.ln1(tokens), masks.ids_keep.shape[1], self.token_set))


@MODELS.register_module()
class VisibleMean(BaseModule):
    """No feature decoder (an ablation of CMAE): the mean of the encoder's visible patch tokens.

    Args:
        class_token: Whether the encoder's tokens start with a class token.
    """

    reads_pixel_tokens: ClassVar[bool] = False

    def __init__(self, class_token: bool = True) -> None:
        super().__init__()
        self.class_token = class_token

    def forward(self, latent: Tensor, masks: Mask) -> Tensor:
        """Give (N, C) means of (N, K, C) encoder tokens."""
        return latent[:, int(self.class_token) :].mean(dim=1)
