"""The transformer block of all encoders and decoders: mmpretrain's parameters, less work."""

from __future__ import annotations

from collections.abc import Iterable

import torch.nn.functional as F
from mmpretrain.models.backbones.vision_transformer import TransformerEncoderLayer
from torch import Tensor, nn


class Block(TransformerEncoderLayer):
    """mmpretrain's pre-norm block, equal in parameters and result.

    Queries, keys and values are split so that their gradients are written once, in place; mmpretrain's selection
    fills and adds three tensors of the size of all. Tokens that nobody reads can be left out of the result.
    """

    def forward(self, x: Tensor, first: int = 0) -> Tensor:
        """Transform tokens.

        Args:
            x: (N, L, C); all of them serve as keys and values.
            first: Where the wanted tokens begin.

        Returns:
            (N, L - first, C).
        """
        mixed = self._attend(self.ln1(x), first)
        x = x[:, first:] + mixed
        return self.ffn(self.ln2(x), identity=x)

    def _attend(self, x: Tensor, first: int) -> Tensor:
        attn = self.attn
        n, length, _ = x.shape
        q, k, v = (
            part.transpose(1, 2)
            for part in attn.qkv(x).view(n, length, 3, attn.num_heads, attn.head_dims).unbind(2)
        )
        dropout = attn.attn_drop if self.training else 0.0
        out = F.scaled_dot_product_attention(q[:, :, first:], k, v, dropout_p=dropout)
        out = attn.proj(out.transpose(1, 2).reshape(n, length - first, attn.embed_dims))
        return attn.out_drop(attn.gamma1(attn.proj_drop(out)))


def as_blocks(layers: Iterable[nn.Module]) -> None:
    """Let layers that mmpretrain's encoders and decoders have built compute as :class:`Block`, in place.

    They name their class themselves, so it cannot be handed in.
    """
    for layer in layers:
        assert type(layer) is TransformerEncoderLayer
        layer.__class__ = Block
