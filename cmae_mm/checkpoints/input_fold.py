"""Fold the input convention of an encoder into its patch embedding.

Transfer always feeds RGB with ImageNet statistics. An encoder that was trained on another channel
order or other statistics gives the same tokens for that input once its stem is rewritten: the
patch embedding is linear, so the change of input is exact (except where zeros are padded *after*
normalisation, whose colour changes).
"""

from __future__ import annotations

import torch

from cmae_mm.checkpoints.header import IMAGENET_MEAN, IMAGENET_STD, BackboneHeader


def fold_input(state: dict[str, torch.Tensor], header: BackboneHeader) -> dict[str, torch.Tensor]:
    """Rewrite the stem for RGB input normalised with the ImageNet statistics.

    With x' = (RGB - m') / s' as the new input, old channel i shows colour p(i) and equals
    (x'_p s'_p + m'_p - m_i) / s_i. Hence W'[:, p] = W[:, i] s'_p / s_i and
    b' = b + sum_i (m'_p - m_i) / s_i * sum(W[:, i]).

    Args:
        state: Encoder tensors under timm names; not changed.
        header: Says what the encoder was fed.

    Returns:
        The same dict with another first convolution, or the very same dict if nothing changes.
    """
    mean, std = torch.tensor(header.mean), torch.tensor(header.std)
    colour = [2, 1, 0] if header.channel_order == "bgr" else [0, 1, 2]
    new_mean, new_std = torch.tensor(IMAGENET_MEAN)[colour], torch.tensor(IMAGENET_STD)[colour]
    stem = "patch_embed1.proj" if header.kind == "hybrid" else "patch_embed.proj"
    if header.channel_order == "rgb" and torch.equal(mean, new_mean) and torch.equal(std, new_std):
        return state
    weight = state[f"{stem}.weight"].double()
    scaled = weight * (new_std / std).double().view(1, 3, 1, 1)
    shift = (weight.sum((2, 3)) * ((new_mean - mean) / std).double()).sum(1)
    folded = torch.empty_like(scaled)
    folded[:, colour] = scaled
    bias = state[f"{stem}.bias"].double() + shift
    return {**state, f"{stem}.weight": folded.float(), f"{stem}.bias": bias.float()}
