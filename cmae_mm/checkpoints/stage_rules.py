"""Which header fields go together in an encoder with stages. Imports nothing of the suite: headers import it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

STAGED = ("swin", "hybrid")
STAGE_FIELDS = ("stage_widths", "stage_depths", "stage_heads", "stage_hidden", "stage_strides")

# What other fields must be, because an encoder of this kind has no such part.
_FIXED: Mapping[str, Mapping[str, Any]] = {
    "swin": {"position": "none", "relative_position": True},
    "hybrid": {"position": "patches", "relative_position": False, "stage_windows": ()},
}
_NEVER: Mapping[str, Any] = {"class_token": False, "registers": 0, "layer_scale": False, "mlp": "gelu"}


def stage_fault(values: Mapping[str, Any]) -> str:
    """Find what does not fit in the fields of stages, each of which is right by itself.

    Args:
        values: All fields of a header.

    Returns:
        Words for the fault; empty if there is none.
    """
    kind = values["kind"]
    if kind not in STAGED:
        named = [name for name in (*STAGE_FIELDS, "stage_windows") if values[name]]
        return f"a ViT has no stages, but {named[0]} is given" if named else ""
    for name, right in {**_NEVER, **_FIXED[kind]}.items():
        if values[name] != right:
            return f"in an encoder of kind {kind} {name} must be {right!r}"
    fields = (*STAGE_FIELDS, *(["stage_windows"] if kind == "swin" else []))
    stages = len(values["stage_widths"])
    if (
        not stages
        or any(len(values[name]) != stages for name in fields)
        or (kind == "hybrid" and stages != 3)
    ):
        return f"the fields {', '.join(fields)} must have as many values each as there are stages"
    return _sums(values) or _heads(values)


def _sums(values: Mapping[str, Any]) -> str:
    whole = {
        "width": values["stage_widths"][-1],
        "heads": values["stage_heads"][-1],
        "hidden": values["stage_hidden"][-1],
        "depth": sum(values["stage_depths"]),
        "patch": math.prod(values["stage_strides"]),
    }
    wrong = [name for name, right in whole.items() if values[name] != right]
    return f"{wrong[0]} is {values[wrong[0]]}, but the stages make {whole[wrong[0]]}" if wrong else ""


def _heads(values: Mapping[str, Any]) -> str:
    for i, (width, heads) in enumerate(zip(values["stage_widths"], values["stage_heads"], strict=True)):
        attends = values["kind"] == "swin" or i == len(values["stage_widths"]) - 1
        if attends and (not heads or width % heads):
            return f"{heads} heads do not divide a width of {width}"
        if not attends and heads:
            return f"stage {i} has convolutions and no heads, but {heads} are given"
    return ""
