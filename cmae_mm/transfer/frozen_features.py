"""What a frozen encoder says about an image: class tokens and mean patch tokens of chosen blocks."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from mmengine.model import BaseModel
from mmpretrain.models import VisionTransformer
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from cmae_mm.errors import UserError
from cmae_mm.transfer.imagenet import ImageNetViT

_PART = re.compile(r"(cls|avg)-([1-9]\d{0,2})")


class Part(NamedTuple):
    """One vector of an encoder."""

    token: str
    """``cls``, the class token, or ``avg``, the mean of the patch tokens."""
    block: int
    """Counted from the end: 1 is the last."""


def parse_part(name: str) -> Part:
    """Read the name of a part: ``cls-1`` is the class token after the last block, ``avg-2`` a mean one block before.

    Args:
        name: ``cls-N`` or ``avg-N``.

    Raises:
        UserError: It is of another form.
    """
    found = _PART.fullmatch(str(name))
    if found is None:
        raise UserError(
            f"features: there is no part {name!r}; name cls-N (class token) or avg-N (mean patch token), N = 1 for the "
            f"last block"
        )
    return Part(found[1], int(found[2]))


def tokens_of(vit: Any, inputs: Tensor, parts: Sequence[str]) -> dict[str, Tensor]:
    """Encode images and pick tokens; those of every block pass through the final norm, where there is one.

    Args:
        vit: mmpretrain's ``VisionTransformer`` with ``out_type="raw"``; its ``out_indices`` are set.
        inputs: (N, 3, H, W), normalised.
        parts: See :func:`parse_part`.

    Returns:
        Each part as (N, C) float32.
    """
    chosen = [parse_part(name) for name in parts]
    blocks = sorted({vit.num_layers - part.block for part in chosen})
    vit.out_indices = blocks
    # The class method: subclasses may give other things.
    tokens = dict(zip(blocks, VisionTransformer.forward(vit, inputs), strict=True))
    found = {}
    for name, part in zip(parts, chosen, strict=True):
        of_block = tokens[vit.num_layers - part.block]
        # The mean of normed tokens is no norm of their mean, so all patch tokens pass through the norm.
        some = of_block[:, :1] if part.token == "cls" else of_block[:, vit.num_extra_tokens :]
        if part.block > 1 and vit.final_norm:  # the encoder has normed those of its last block itself
            some = vit.ln1(some)
        found[name] = some.float().mean(dim=1)
    return found


@MODELS.register_module()
class TokenViT(ImageNetViT):
    """An encoder for probes whose images are encoded anew in each epoch: chosen tokens side by side.

    Args:
        parts: See :func:`parse_part`.
        **kwargs: See `ImageNetViT`; ``frozen_stages`` is the number of blocks.
    """

    def __init__(self, parts: Sequence[str] = ("cls-1",), **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "out_type": "raw"})
        self.parts = list(parts)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Encode images.

        Args:
            x: (N, 3, H, W), normalised.

        Returns:
            (N, parts * C), alone in a tuple.
        """
        return (torch.cat(list(tokens_of(self, x, self.parts).values()), dim=1),)


@MODELS.register_module()
class FrozenFeatures(BaseModel):
    """An encoder as pretraining left it, which gives chosen tokens: no gradient, always in evaluation mode.

    Tokens of every block pass through the encoder's final norm, as DINO and DINOv2 do it.

    Args:
        backbone: Config of an ``ImageNetViT``; its ``out_type`` is set here.
        data_preprocessor: Config of mmpretrain's preprocessor, without its type.
    """

    def __init__(self, backbone: dict[str, Any], data_preprocessor: dict[str, Any] | None = None) -> None:
        preprocessor = {"type": "ClsDataPreprocessor", **(data_preprocessor or {})}
        super().__init__(data_preprocessor=MODELS.build(preprocessor))
        self.backbone = MODELS.build({**backbone, "out_type": "raw"})
        self.requires_grad_(False)
        self.train(False)

    @property
    def width(self) -> int:
        """Channels of a part."""
        return int(self.backbone.embed_dims)

    def train(self, mode: bool = True) -> FrozenFeatures:
        """Stay in evaluation mode, whatever is asked for."""
        super().train(False)
        return self

    def check_parts(self, names: Sequence[str]) -> None:
        """Make sure that the encoder has these parts.

        Args:
            names: See :func:`parse_part`.

        Raises:
            UserError: A block or the class token is missing, or nothing is asked for.
        """
        if not names:
            raise UserError("features: no part is asked for; name some, for example probe.parts=[cls-1]")
        for name in names:
            part = parse_part(name)
            if part.block > self.backbone.num_layers:
                raise UserError(f"features: {name} is before the first of {self.backbone.num_layers} blocks")
            if part.token == "cls" and self.backbone.cls_token is None:
                raise UserError(f"features: {name}: this encoder has no class token; use avg-{part.block}")

    @torch.no_grad()
    def forward(self, inputs: Tensor, parts: Sequence[str]) -> dict[str, Tensor]:  # type: ignore[override]
        """Encode images.

        Args:
            inputs: (N, 3, H, W), normalised.
            parts: See :func:`parse_part`.

        Returns:
            Each part as (N, C) float32.
        """
        return tokens_of(self.backbone, inputs, parts)


def digest_of_weights(module: nn.Module) -> str:
    """Tell modules apart by their weights.

    Args:
        module: Parameters and persistent buffers count, their names, types and shapes too.

    Returns:
        BLAKE2b, 32 hexadecimal digits.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
