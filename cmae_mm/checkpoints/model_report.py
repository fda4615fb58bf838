"""The tensors of one model in lines of text: blocks that are alike described once, and what is odd."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
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


@dataclass
class ModelReport:
    """The tensors of one model, measured.

    Attributes:
        name: Where in the file it is; empty at the top.
        looks: Its tensors.
        positions: Position tables, and what each of them is.
        blocks: Norm of the weights of each block, by its name.
        warnings: What is odd.
        lines: The blocks in words.
    """

    name: str
    looks: list[Look] = field(default_factory=list)
    positions: dict[str, str] = field(default_factory=dict)
    blocks: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    def text(self) -> list[str]:
        """Returns: Lines, the first of which is a title, warnings with a leading ``!``."""
        positions = [f"  positions {key}: {kind}" for key, kind in self.positions.items()]
        alone = [
            f"  {look.name} {_shape(look.shape)}, norm {look.norm:.4g}"
            for look in self.looks
            if not _BLOCK.match(look.name)
        ]
        warnings = [f"! {sentence}" for sentence in self.warnings]
        return [_title(self.name, self.looks), *positions, *shortened(alone), *self.lines, *warnings]

    def plain(self) -> dict[str, Any]:
        """Returns: What `text` says, and every tensor, as JSON has it."""
        return {
            "name": shown(self.name),
            "parameters": _parameters(self.looks),
            "positions": self.positions,
            "block_norms": self.blocks,
            "warnings": self.warnings,
            "tensors": {
                look.name: {
                    "shape": look.shape,
                    "dtype": look.dtype,
                    "norm": look.norm,
                    "not_finite": look.bad,
                }
                for look in self.looks
            },
        }


def describe_model(name: str, pairs: Iterable[tuple[str, torch.Tensor]]) -> ModelReport:
    """Describe the tensors of one model, each looked at once.

    Args:
        name: Where in the file it is; empty at the top.
        pairs: Keys and tensors.

    Returns:
        What was measured, and what is odd about it.
    """
    report = ModelReport(name)
    for key, tensor in pairs:
        report.looks.append(look_at(shown(key), tensor))
        if _TABLE.search(key) and tensor.ndim == 3 and tensor.is_floating_point():
            report.positions[shown(key)] = _KINDS.get(table_kind(tensor), "none")
    blocks: dict[str, Members] = {}
    for look in report.looks:
        if match := _BLOCK.match(look.name):
            blocks.setdefault(match[1], []).append((match[2], look))
    report.blocks = {n: math.hypot(*(look.norm for _, look in m if look.real)) for n, m in blocks.items()}
    report.lines, odd = _describe_blocks(blocks, report.blocks)
    report.warnings = [*oddities(report.looks), *odd]
    return report


def _title(name: str, looks: Sequence[Look]) -> str:
    types = Counter(look.dtype for look in looks)
    return (
        f"{shown(name) or 'tensors'}: {len(looks)} tensors, {_parameters(looks):,} parameters "
        f"({', '.join(f'{count} {kind}' for kind, count in types.items())})"
    )


def _describe_blocks(
    blocks: Mapping[str, Members], found: Mapping[str, float]
) -> tuple[list[str], list[str]]:
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
        norms = {n: found[n] for n in names}
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
