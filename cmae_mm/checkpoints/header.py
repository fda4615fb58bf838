"""What a backbone file says of itself: the JSON header beside the tensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from cmae_mm.checkpoints.header_fields import fault_of
from cmae_mm.checkpoints.plain_json import parse_json
from cmae_mm.errors import UserError

FORMAT_VERSION = 3  # 1 described plain ViTs only, 2 no encoders with stages; their files are read as before
MAX_JSON = 1 << 20  # characters; headers have about a thousand
IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class BackboneHeader:
    """Everything about an encoder that its tensors cannot tell.

    Attributes:
        method: Pretraining method, for example ``"cmae"``.
        width: Token width in channels (of the last stage, as all sizes here where there are stages).
        depth: Number of blocks, of all stages.
        heads: Number of attention heads; invisible in the tensors' shapes.
        hidden: Width of the MLP in channels: what ``mlp.fc1`` gives out (both halves of a SwiGLU).
        patch: Side in pixels of what one token covers at the end: a patch, or the product of all strides.
        image_size: Side of the (square) pretraining image in pixels.
        ln_eps: Epsilon of every layer norm (in a hybrid, of those behind the convolutions, which have 1e-5).
        class_token: Whether the encoder has a class token.
        position: ``"class_row"``: ``pos_embed`` has a row for the class token where there is one; ``"patches"``: rows
            for patches only; ``"none"``: there is no ``pos_embed``.
        registers: Number of register tokens (``reg_token``), which have no position.
        layer_scale: Whether each branch is scaled (``ls1.gamma``, ``ls2.gamma``).
        relative_position: Whether each block has a table of relative positions
            (``attn.relative_position_bias_table``); shared tables are copied to every block.
        final_norm: ``"norm"`` on all tokens, ``"fc_norm"`` after pooling, or ``"none"``.
        mlp: ``"gelu"``, or ``"swiglu"`` with both input halves packed in ``mlp.fc1``.
        pooling: What the method's own evaluation pools: ``"avg"`` or ``"cls"``.
        mean: Mean that was subtracted, per input channel, in 0..255 units.
        std: Standard deviation that it was divided by, per input channel, in 0..255 units.
        channel_order: ``"rgb"`` or ``"bgr"``: the order of the channels the encoder was fed.
        epochs: Pretraining epochs; None if unknown.
        source: Where the weights came from, for example a file name.
        source_sha256: SHA-256 of that file.
        licence: Licence note of the weights.
        family: Layout that the file was imported from, for example ``"dino"``; empty for runs of this suite.
        branch: Which of several encoders in that file this is, for example ``"teacher"``.
        dropped: Keys of that file that were left out, shortened to patterns.
        transforms: What was done to tensors beside renaming, in words.
        kind: ``"vit"``; with stages ``"swin"`` (see `staged.swin`) or ``"hybrid"`` (see `staged.hybrid`).
        stage_widths: Channels of each stage; this and the next are empty for a ViT.
        stage_depths: Blocks of each stage.
        stage_heads: Attention heads of each stage; 0 where it has convolutions.
        stage_hidden: Width of the MLPs of each stage in channels.
        stage_strides: Factor by which each stage is coarser than what it gets.
        stage_windows: Side of the attention windows of each stage; empty where attention is global.
        format_version: Version of this header.
    """

    method: str
    width: int
    depth: int
    heads: int
    hidden: int
    patch: int
    image_size: int
    ln_eps: float = 1e-6
    class_token: bool = True
    position: str = "class_row"
    registers: int = 0
    layer_scale: bool = False
    relative_position: bool = False
    final_norm: str = "norm"
    mlp: str = "gelu"
    pooling: str = "avg"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    channel_order: str = "rgb"
    epochs: int | None = None
    source: str = ""
    source_sha256: str = ""
    licence: str = ""
    family: str = ""
    branch: str = ""
    dropped: tuple[str, ...] = ()
    transforms: tuple[str, ...] = ()
    kind: str = "vit"
    stage_widths: tuple[int, ...] = ()
    stage_depths: tuple[int, ...] = ()
    stage_heads: tuple[int, ...] = ()
    stage_hidden: tuple[int, ...] = ()
    stage_strides: tuple[int, ...] = ()
    stage_windows: tuple[int, ...] = ()
    format_version: int = FORMAT_VERSION

    @property
    def grid(self) -> int:
        """Tokens along one side of the pretraining image."""
        return self.image_size // self.patch

    def check(self, where: str) -> None:
        """Make sure that every field has a value of its type and range.

        Args:
            where: Named in the error message.

        Raises:
            UserError: If one has not.
        """
        if fault := fault_of(vars(self)):  # asdict() would walk into whatever a value holds
            raise UserError(f"{where}: the header is wrong: {fault}; make the file again")

    def to_json(self) -> str:
        """Returns: The header as one line of JSON with sorted keys."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str) -> BackboneHeader:
        """Build a header from plain values.

        Args:
            values: Field names to values; unknown names are refused.
            where: Named in the error message.

        Raises:
            UserError: If a field is missing, unknown or wrong, or the format is newer than this program.
        """
        version = values.get("format_version", FORMAT_VERSION)
        if type(version) is int and FORMAT_VERSION < version < 1000:
            raise UserError(f"{where}: the header has format version {version}; update cmae_mm")
        known = {field.name for field in fields(cls)}
        if unknown := sorted(ascii(name)[:60] for name in values if name not in known):
            raise UserError(
                f"{where}: the header has unknown fields [{', '.join(unknown[:5])}]; it was written by a newer version "
                f"of cmae_mm: update cmae_mm"
            )
        plain: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
        try:
            header = cls(**plain)
        except TypeError as error:
            raise UserError(f"{where}: the header is incomplete ({error}); export the file again") from None
        header.check(where)
        return header

    @classmethod
    def from_json(cls, text: str, where: str) -> BackboneHeader:
        """Parse what :meth:`to_json` wrote.

        Raises:
            UserError: If the text is not such a header.
        """
        if len(text) > MAX_JSON:
            raise UserError(
                f"{where}: the header has {len(text)} characters, which none has; export the file again"
            )
        try:
            values = parse_json(text)
        except ValueError as error:
            reason = str(error)[:100]
            raise UserError(f"{where}: the header is not JSON ({reason}); export the file again") from None
        if not isinstance(values, dict):
            raise UserError(f"{where}: the header is not a JSON object; export the file again")
        return cls.from_dict(values, where)
