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
fine-tuned          backbone.*, head.head.*                    the head is dropped; fc_norm is kept
renamed             blocks.N.norm1.*, ...                      nothing; nothing tells it from MoCo v3
==================  =========================================  ==============================================

``branch="target"`` takes ``target_backbone.*`` of a full checkpoint, which has no final norm. The released code feeds
BGR images with RGB statistics; which order the published weights were trained with is not known.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from cmae_mm.checkpoints.sources.layout import PLAIN, Family, Layout, rules
from cmae_mm.checkpoints.sources.openmmlab import RULES, timm_name
from cmae_mm.errors import UserError

_STEM = ("cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias")
_NORM = ("norm.weight", "norm.bias")
_BLOCK = tuple(
    f"{part}.{kind}"
    for part in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
    for kind in ("weight", "bias")
)

_MM: Any = dict(
    stem="patch_embed.projection.weight",
    rules=rules((r"^ln\.", "norm.")) + RULES,
    tables=("sincos_row",),
    branch="online",
    channel_order="bgr",
    channel_note="as in the released code, but the published weights may have been trained with rgb",
    pooling="avg",
)
_OLD = {
    **_MM,
    "stem": "patch_embed.proj.weight",
    "rules": (),
    "channel_order": "rgb",
    "channel_note": "as in the older code, but the released code feeds bgr",
}
_BESIDE = ("pixel_decoder.*", "feature_decoder.*", "projector.*", "target_projector.*", "head.*")

FAMILY = Family(
    name="cmae",
    method="cmae",
    licence="none stated (ZhichengHuang/CMAE)",
    layouts=(
        Layout(
            "full",
            prefixes=("backbone.",),
            beside=("target_backbone.*", *_BESIDE),
            needs=("target_backbone.*", "pixel_decoder.*"),
            **_MM,
        ),
        Layout(
            "full, target",
            prefixes=("target_backbone.",),
            beside=("backbone.*", *_BESIDE),
            needs=("backbone.*",),
            architecture={**PLAIN, "final_norm": "none"},
            on_request=True,
            **{**_MM, "branch": "target"},
        ),
        Layout("extracted", prefixes=("", "backbone."), **_MM),
        Layout("old", prefixes=("encoder_s.",), beside=("*",), **_OLD),
        Layout(
            "fine-tuned",
            prefixes=("backbone.",),
            beside=("head.*",),
            needs=("backbone.fc_norm.*",),
            architecture={**PLAIN, "final_norm": "fc_norm"},
            **{**_MM, "tables": ()},
        ),
        Layout("renamed", **_OLD),
    ),
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
