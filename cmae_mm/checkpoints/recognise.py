"""Which families a checkpoint fits: exactly, in every key and shape, or not at all.

Several names mean that nothing in the file tells them apart; none is preferred. The position table counts as
evidence: methods that never train it have one of two fixed tables, others have learned ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from cmae_mm.checkpoints.extraction import Extracted, claimed, extract
from cmae_mm.checkpoints.misfit import Misfit
from cmae_mm.checkpoints.refusals import refusal
from cmae_mm.checkpoints.sources import FAMILIES
from cmae_mm.checkpoints.sources.layout import Family, Layout
from cmae_mm.checkpoints.unwrap import unwrap

_VALUES = ("pos_embed", "position_embeddings", "cls_token")


def recognise(state: Mapping[str, Any]) -> list[str]:
    """Name the families that a checkpoint fits.

    Args:
        state: A whole checkpoint, or the tensors of one model.

    Returns:
        Names of `FAMILIES`; several if they cannot be told apart, none if the file is refused or not known.

    Raises:
        UserError: If there is no dictionary of tensors in it.
    """
    if refusal({}, state):
        return []
    tensors = unwrap(state).state
    if refusal(tensors):
        return []
    return [name for name, family in FAMILIES.items() if fits(tensors, family)]


def fits(tensors: Mapping[str, torch.Tensor], family: Family) -> bool:
    """Whether a family would name the tensors of a model as its own.

    Args:
        tensors: Tensors of one model.
        family: The family.
    """
    outlines = outline(tensors)
    for layout in layouts_of(family, None):
        try:
            if claimed(extract(outlines, layout)):
                return True
        except Misfit:
            continue
    return False


def extract_family(
    tensors: Mapping[str, torch.Tensor], family: Family, branch: str | None = None
) -> Extracted:
    """Take the encoder by the first layout of a family that fits.

    Args:
        tensors: Tensors of one model.
        family: The family.
        branch: Which encoder, where the tensors hold several.

    Returns:
        The encoder.

    Raises:
        Misfit: If no layout fits; the reason is that of the closest one.
    """
    closest = None
    for layout in layouts_of(family, branch):
        try:
            return extract(tensors, layout)
        except Misfit as misfit:
            closest = misfit if closest is None or misfit.distance < closest.distance else closest
    raise closest or Misfit(f"it has no branch {branch!r}")


def closest_family(tensors: Mapping[str, torch.Tensor]) -> tuple[str, str]:
    """Name the family that fits least badly, for a message.

    Args:
        tensors: Tensors of one model.

    Returns:
        Its name and what speaks against it.
    """
    outlines = outline(tensors)
    best, name = Misfit("there is no patch embedding of a ViT"), ""
    for family in FAMILIES.values():
        try:
            extract_family(outlines, family)
            return (
                family.name,
                f"its position table is of another kind (`--source {family.name}` takes it all the same)",
            )
        except Misfit as misfit:
            if misfit.distance < best.distance:
                best, name = misfit, family.name
    return name, str(best)


def layouts_of(family: Family, branch: str | None) -> list[Layout]:
    """Returns: The layouts to try: those of a branch if one is asked for, else those that need no asking."""
    if branch is None:
        return [layout for layout in family.layouts if not layout.on_request]
    return [layout for layout in family.layouts if layout.branch in ("", branch)]


def outline(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Returns: The tensors without values where only shapes matter, so that trying families costs nothing."""
    return {k: v if k.endswith(_VALUES) else torch.empty_like(v, device="meta") for k, v in tensors.items()}
