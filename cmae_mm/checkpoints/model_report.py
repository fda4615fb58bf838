"""The tensors of one model in lines of text: blocks that are alike described once, and what is odd."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from cmae_mm.checkpoints.position_tables import table_kind
from cmae_mm.checkpoints.tensor_health import Look, look_at, odd_blocks, oddities

MOST = 40  # lines of one list

_BLOCK = re.compile(r"^((?:.*?\.)?\d+)\.(.+)$")
_TABLE = re.compile(r"(^|\.)(\w*pos_embed|position_embeddings)$")
_KINDS = {
    "sincos_row": "sine and cosine, row first (MoCo v3, mmpretrain, CAE)",
    "sincos_col": "sine and cosine, column first (MAE)",
    "learned": "learned",
}
Members = list[tuple[str, Look]]


def shown(value: Any) -> str:
    """One printable line of at most 80 characters, whatever text a file chose."""
    if isinstance(value, Mapping):
        return f"{len(value)} entries"
    if isinstance(value, (list, tuple)) and not all(isinstance(v, (int, float, str)) for v in value):
        return f"{len(value)} values"
    try:
        text = value if isinstance(value, str) else repr(value)
    except (ValueError, RecursionError):  # a number of very many digits
        return type(value).__name__
    if " object at 0x" in text:
        return "an object that was not read"
    text = text if text.isprintable() else ascii(text)
    return text if len(text) <= 80 else text[:77] + "..."


def shortened(lines: Sequence[str], indent: str = "  ") -> list[str]:
    """The first lines, and how many there are beyond."""
    more = [f"{indent}... {len(lines) - MOST} more"] if len(lines) > MOST else []
    return [*lines[:MOST], *more]


def describe_model(name: str, pairs: Iterable[tuple[str, torch.Tensor]]) -> tuple[list[str], list[Look]]:
    """Describe the tensors of one model, each looked at once.

    Args:
        name: Where in the file it is; empty at the top.
        pairs: Keys and tensors.

    Returns:
        Lines, the first of which is a title, warnings with a leading ``!``; and what was measured.
    """
    looks, positions = [], []
    for key, tensor in pairs:
        looks.append(look_at(shown(key), tensor))
        if _TABLE.search(key) and tensor.ndim == 3 and tensor.is_floating_point():
            positions.append(f"  positions {shown(key)}: {_KINDS.get(table_kind(tensor), 'none')}")
    blocks: dict[str, Members] = {}
    alone = []
    for look in looks:
        if match := _BLOCK.match(look.name):
            blocks.setdefault(match[1], []).append((match[2], look))
        else:
            alone.append(f"  {look.name} {_shape(look.shape)}, norm {look.norm:.4g}")
    described, odd = _describe_blocks(blocks)
    warnings = [f"! {sentence}" for sentence in (*oddities(looks), *odd)]
    return [_title(name, looks), *positions, *shortened(alone), *described, *warnings], looks


def _title(name: str, looks: Sequence[Look]) -> str:
    types = Counter(look.dtype for look in looks)
    return (
        f"{shown(name) or 'tensors'}: {len(looks)} tensors, {_parameters(looks):,} parameters "
        f"({', '.join(f'{count} {kind}' for kind, count in types.items())})"
    )


def _describe_blocks(blocks: Mapping[str, Members]) -> tuple[list[str], list[str]]:
    """Describe blocks, those with the same stem and shapes once.

    Returns:
        Lines and oddities.
    """
    alike: dict[tuple[Any, ...], list[str]] = {}
    for name, members in blocks.items():
        shapes = tuple(sorted((leaf, look.shape) for leaf, look in members))
        alike.setdefault((name.rpartition(".")[0], shapes), []).append(name)
    lines, odd = [], []
    for (_, shapes), names in sorted(alike.items(), key=lambda item: item[0][0]):
        names.sort(key=lambda n: int(n.rpartition(".")[2]))
        norms = {n: math.hypot(*(look.norm for _, look in blocks[n] if look.real)) for n in names}
        numbers = ", ".join(n.rpartition(".")[2] for n in names)
        if len(names) > 2:
            numbers = f"{numbers.split(', ')[0]} to {numbers.split(', ')[-1]}, {len(names)} blocks"
        stem = names[0].rpartition(".")[0]
        each = _parameters([look for _, look in blocks[names[0]]])
        lines.append(f"  {stem or 'block'} {numbers} of {each:,} parameters{' each' * (len(names) > 1)}")
        lines += shortened([f"    {leaf} {_shape(shape)}" for leaf, shape in shapes], "    ")
        more = " ..." if len(norms) > MOST else ""
        lines.append("    norm " + " ".join(f"{norm:.4g}" for norm in list(norms.values())[:MOST]) + more)
        odd += odd_blocks(norms)
    return lines, odd


def _parameters(looks: Sequence[Look]) -> int:
    return sum(look.count for look in looks if look.real)


def _shape(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape)) or "one value"
