"""What a family of checkpoints is: how its files are laid out and what their tensors cannot tell.

Patterns of keys are shell patterns, in which ``*`` also matches dots. Renaming rules are regular expressions that are
applied one after the other.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

State = dict[str, torch.Tensor]
Rules = tuple[tuple[re.Pattern[str], str], ...]
Step = Callable[[State], str]

NORMALIZATIONS: Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "imagenet": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    "half": ((127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),
}

# Attention heads by (width, depth). MoCo v3 and CAE have a small model with twice the heads of everyone else's.
HEADS = {
    (192, 12): 3,
    (384, 12): 6,
    (768, 8): 8,
    (768, 12): 12,
    (1024, 24): 16,
    (1280, 32): 16,
    (1408, 40): 16,
    (1536, 40): 24,
}
TWELVE_HEADED_SMALL = {**HEADS, (384, 12): 12}

# The plain ViT that most methods train, as fields of the header.
PLAIN: Mapping[str, Any] = {
    "class_token": True,
    "position": "class_row",
    "registers": 0,
    "layer_scale": False,
    "relative_position": False,
    "final_norm": "norm",
    "mlp": "gelu",
}


@dataclass(frozen=True)
class Layout:
    """One way in which a family stores its encoder.

    Attributes:
        name: For messages and documents, for example ``"full"``.
        prefixes: Where the encoder may live; the first one that has the stem counts.
        stem: Key of the patch embedding below the prefix.
        rules: Turn keys below the prefix into timm's names.
        steps: What is then done to the tensors, in order; each returns a sentence, empty if it did nothing.
        drop: Patterns of keys below the prefix that are left out.
        beside: Patterns of keys outside the prefix that are left out.
        adopt: Patterns of keys outside the prefix that belong to the encoder.
        needs: Patterns that must match a key of the file.
        lacks: Patterns that must match no key of the file.
        test: Another condition on the file's tensors.
        kind: Kind of encoder, as in the header.
        architecture: Fields of the header that the encoder must have; a tuple lists several values.
        elsewhere: Encoders, as fields of the header, that fit but that another family recognises.
        tables: Kinds of position tables that fit (``"learned"``, ``"sincos_col"``, ``"sincos_row"``); empty if any.
        branch: Which encoder this is, where the file has or had several.
        on_request: Whether it is only looked for when its branch was asked for.
        normalization: Key of `NORMALIZATIONS`; empty if files differ.
        channel_order: ``"rgb"`` or ``"bgr"``.
        channel_note: Why the channel order may be wrong; empty if it is certain.
        pooling: What the method's own evaluation pools.
    """

    name: str
    prefixes: tuple[str, ...] = ("",)
    stem: str = "patch_embed.proj.weight"
    rules: Rules = ()
    steps: tuple[Step, ...] = ()
    drop: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    adopt: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()
    test: Callable[[Mapping[str, torch.Tensor]], bool] | None = None
    kind: str = "vit"
    architecture: Mapping[str, Any] = field(default_factory=lambda: PLAIN)
    elsewhere: tuple[Mapping[str, Any], ...] = ()
    tables: tuple[str, ...] = ()
    branch: str = ""
    on_request: bool = False
    normalization: str = "imagenet"
    channel_order: str = "rgb"
    channel_note: str = ""
    pooling: str = "cls"


@dataclass(frozen=True)
class Family:
    """A family of checkpoints.

    Attributes:
        name: What ``--source`` calls it.
        method: Pretraining method for the header.
        layouts: The first that fits counts.
        licence: Licence note of the upstream weights.
        heads: Attention heads by (width, depth).
        eps: Epsilon of the layer norms.
        hub: Whether hubs put JSON files beside the weights that say more, see `sidecar`.
    """

    name: str
    method: str
    layouts: tuple[Layout, ...]
    licence: str
    heads: Mapping[tuple[int, int], int] = field(default_factory=lambda: HEADS)
    eps: float = 1e-6
    hub: bool = False


def rules(*pairs: tuple[str, str]) -> Rules:
    """Returns: Compiled renaming rules."""
    return tuple((re.compile(old), new) for old, new in pairs)
