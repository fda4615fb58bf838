"""Official CMAE: the online encoder of each layout that is around, under timm names.

==================  =========================================  ==============================================
layout              keys                                       what is done
==================  =========================================  ==============================================
full                backbone.*, target_backbone.*, ...         `backbone.` is taken; target branch, decoders,
                                                               projectors and predictor are dropped
prefixed            backbone.*                                 the prefix goes
bare                layers.N.ln1.*, ... (extracted)            renamed as any OpenMMLab checkpoint
old                 encoder_s.blocks.N.norm1.*, ...            the prefix goes, names are timm's already
converted from old  bare, but the final norm is called ln.*    ln -> norm: their converter lost the digit
==================  =========================================  ==============================================
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from cmae_mm.checkpoints.sources.openmmlab import timm_name
from cmae_mm.errors import UserError

_STEM = ("cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias")
_NORM = ("norm.weight", "norm.bias")
_BLOCK = tuple(
    f"{part}.{kind}"
    for part in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
    for kind in ("weight", "bias")
)


def encoder_state(state: Mapping[str, torch.Tensor], where: str) -> dict[str, torch.Tensor]:
    """Pick the online encoder out of an official CMAE state dict.

    Args:
        state: Tensors of any of the layouts above.
        where: Named in the error message.

    Returns:
        Tensors under timm names; exactly the keys of a ViT with class token and final norm.

    Raises:
        UserError: If an encoder tensor is missing.
    """
    prefix = next((p for p in ("backbone.", "encoder_s.") if any(k.startswith(p) for k in state)), "")
    named = {_name(k[len(prefix) :]): v for k, v in state.items() if k.startswith(prefix)}
    depth = len({k.split(".")[1] for k in named if k.startswith("blocks.")})
    wanted = [*_STEM, *_NORM, *(f"blocks.{i}.{part}" for i in range(depth) for part in _BLOCK)]
    missing = [key for key in wanted if key not in named]
    if missing or depth == 0:
        raise UserError(
            f"{where}: is no official CMAE checkpoint: {len(missing)} encoder tensors are missing, for example "
            f"{missing[0] if missing else 'every block'}; give a pretraining checkpoint of the official code"
        )
    return {key: named[key] for key in wanted}


def _name(key: str) -> str:
    return timm_name("ln1." + key.removeprefix("ln.") if key.startswith("ln.") else key)
