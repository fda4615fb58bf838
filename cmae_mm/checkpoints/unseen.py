"""What tensors cannot tell of an encoder, and who says it instead."""

from __future__ import annotations

from pathlib import Path

from cmae_mm.checkpoints.extraction import Extracted
from cmae_mm.checkpoints.header import BackboneHeader
from cmae_mm.checkpoints.sidecar import Sidecar
from cmae_mm.checkpoints.sources.layout import NORMALIZATIONS, Family
from cmae_mm.checkpoints.unwrap import Unwrapped
from cmae_mm.errors import UserError


def head_count(
    architecture: BackboneHeader, family: Family, beside: Sidecar, given: int | None, path: str | Path
) -> int:
    """Attention heads from what is surest: tables of relative positions, the user, the JSON file, the family's sizes.

    Args:
        architecture: Read from the tensors.
        family: Its family.
        beside: What JSON files beside the weights said.
        given: What the user gave.
        path: Named in the error message.

    Returns:
        Number of heads.

    Raises:
        UserError: If nothing says it, or the user contradicts the tensors.
    """
    shown, size = architecture.heads, (architecture.width, architecture.depth)
    if given is not None and shown and given != shown:
        raise UserError(
            f"{path}: its tables of relative positions are for {shown} heads, not {given}; drop --heads"
        )
    heads = shown or given or beside.heads or family.heads.get(size)
    if not heads:
        raise UserError(
            f"{path}: holds {size[1]} blocks of width {size[0]}, a size of which {family.name} has no known number of "
            f"attention heads, and tensors do not show it; give it with `--heads N`"
        )
    return heads


def statistics(
    found: Extracted, family: Family, beside: Sidecar, given: str | None, path: str | Path
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of the input: given, from the JSON file, or the layout's.

    Args:
        found: The encoder as extracted.
        family: Its family.
        beside: What JSON files beside the weights said.
        given: What the user gave, a name of `NORMALIZATIONS`.
        path: Named in the error message.

    Returns:
        Both, per channel in 0..255 units.

    Raises:
        UserError: If nothing says it.
    """
    if given is None and beside.mean and beside.std:
        return beside.mean, beside.std
    name = given or found.layout.normalization
    if not name:
        raise UserError(
            f"{path}: encoders of {family.name} were fed differently normalised images, and tensors do not show how; "
            f"say it with `--normalization {'` or `--normalization '.join(NORMALIZATIONS)}`"
        )
    return NORMALIZATIONS[name]


def branch_label(unwrapped: Unwrapped, found: Extracted, branch: str | None, path: str | Path) -> str:
    """Which of several encoders was taken.

    Args:
        unwrapped: Where the tensors were.
        found: The encoder as extracted.
        branch: What the user asked for.
        path: Named in the error message.

    Returns:
        Its name; empty if the family has one encoder only.

    Raises:
        UserError: If the file has no such branch.
    """
    label = unwrapped.outer if unwrapped.outer in ("teacher", "student", "model_ema") else found.layout.branch
    if branch is not None and branch not in (label, unwrapped.outer):
        has = ", ".join(unwrapped.branches) or label or "one encoder only"
        raise UserError(f"{path}: has no branch {branch!r}, it has {has}; give one of these")
    return label
