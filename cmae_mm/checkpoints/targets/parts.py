"""What the ways out share: refusing, renaming, and the tensors that some libraries want in another form."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch

from cmae_mm.checkpoints.header import BackboneHeader
from cmae_mm.errors import UserError

Tensors = dict[str, torch.Tensor]
Rules = Sequence[tuple[re.Pattern[str], str]]
TABLE = "attn.relative_position_bias_table"

MM_RULES: Rules = (  # OpenMMLab's names, as far as its models agree
    (re.compile(r"^patch_embed\.proj\."), "patch_embed.projection."),
    (re.compile(r"^blocks\.(\d+)\.norm([12])\."), r"layers.\1.ln\2."),
    (re.compile(r"^blocks\.(\d+)\.mlp\.fc1\."), r"layers.\1.ffn.layers.0.0."),
    (re.compile(r"^blocks\.(\d+)\.mlp\.fc2\."), r"layers.\1.ffn.layers.1."),
    (re.compile(r"^blocks\.(\d+)\."), r"layers.\1."),
    (re.compile(r"^norm\."), "ln1."),
    (re.compile(r"^fc_norm\."), "ln2."),
)


def refuse(target: str, lacking: Mapping[str, bool | int]) -> None:
    """Stop if the encoder has a part that the target has no place for.

    Args:
        target: The library's model, as the user knows it.
        lacking: Words for each part that the target lacks, and whether the encoder has it.

    Raises:
        UserError: If it has one.
    """
    if parts := [part for part, present in lacking.items() if present]:
        raise UserError(
            f"{target} has no place for {' and '.join(parts)}, which this encoder has; choose another target, or an "
            f"encoder without"
        )


def refuse_kind(target: str, header: BackboneHeader, *kinds: str) -> None:
    """Stop if a target has no model of the encoder's kind.

    Args:
        target: The library.
        header: Of the encoder.
        *kinds: What it has beside plain ViTs.

    Raises:
        UserError: If it has none.
    """
    if header.kind not in ("vit", *kinds):
        raise UserError(
            f"{target} has no model for this {header.kind} encoder; choose another target"
            + (", or use CMAEHybridViT of this suite" if header.kind == "hybrid" else "")
        )


def rename(state: Tensors, rules: Rules) -> Tensors:
    """Apply to each key the first rule that fits; other keys stay."""
    renamed = {}
    for key, value in state.items():
        for pattern, replacement in rules:
            name, hits = pattern.subn(replacement, key)
            if hits:
                break
        renamed[name if hits else key] = value
    return renamed


def with_class_row(state: Tensors, header: BackboneHeader) -> torch.Tensor:
    """The position table of a model that always has one, with a row for the class token.

    A row of zeros leaves the class token as it is, a table of zeros all tokens.

    Returns:
        (1, 1 + grid * grid, width).
    """
    if header.position == "none":
        return torch.zeros(1, 1 + header.grid**2, header.width)
    table = state["pos_embed"]
    if header.position == "class_row" and header.class_token:
        return table
    return torch.cat((torch.zeros_like(table[:, :1]), table), dim=1)


def without_class_row(state: Tensors, header: BackboneHeader) -> Tensors:
    """Fold the position of the class token into it: a table of patches alone computes the same.

    Returns:
        The tensors with other ``cls_token`` and ``pos_embed``; the same ones if there is no such row.
    """
    if header.position != "class_row" or not header.class_token:
        return state
    row, rest = state["pos_embed"][:, :1], state["pos_embed"][:, 1:].clone()
    return {**state, "cls_token": state["cls_token"] + row, "pos_embed": rest}


def separate_bias(state: Tensors, header: BackboneHeader) -> Tensors:
    """Give each block ``q_bias`` and ``v_bias``, as the models of BEiT have them, in place of the full bias.

    The bias of the keys is left out. It adds q_i . b to the logits of query i for every key alike, and a softmax does
    not see what is added to all: features stay the same up to rounding.

    Returns:
        A new dictionary.
    """
    separate = dict(state)
    for i in range(header.depth):
        query, _, value = separate.pop(f"blocks.{i}.attn.qkv.bias").chunk(3)
        separate[f"blocks.{i}.attn.q_bias"] = query.clone()
        separate[f"blocks.{i}.attn.v_bias"] = value.clone()
    return separate


def relative_index(grid: int) -> torch.Tensor:
    """Which row of a table of relative positions belongs to each pair of tokens.

    Rows count the differences of places, row-major from the top left; the last three are for the class token as query,
    as key, and both.

    Args:
        grid: Patches along one side.

    Returns:
        (1 + grid * grid, 1 + grid * grid), int64.
    """
    span = 2 * grid - 1
    place = torch.arange(grid * grid)
    down, across = place // grid, place % grid
    index = torch.empty(1 + len(place), 1 + len(place), dtype=torch.int64)
    index[1:, 1:] = (down[:, None] - down + grid - 1) * span + across[:, None] - across + grid - 1
    index[0, :], index[:, 0], index[0, 0] = span * span, span * span + 1, span * span + 2
    return index
