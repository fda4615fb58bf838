"""What each field of a backbone header may hold: its type, its range, and the words for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cmae_mm.checkpoints.stage_rules import STAGED, stage_fault

MAX_TEXT = 1000  # characters of one text
MAX_TEXTS = 1000  # texts in one field
MAX_STAGES = 8


@dataclass(frozen=True)
class FieldRule:
    """What one field may hold.

    Attributes:
        allows: Tells whether a value fits.
        words: What fits, for the sentence that refuses a value.
    """

    allows: Callable[[Any], bool]
    words: str


def _whole(low: int, high: int) -> FieldRule:
    # bool is an int for Python, but no number of blocks
    return FieldRule(lambda v: type(v) is int and low <= v <= high, f"a whole number from {low} to {high}")


def _choice(*names: str) -> FieldRule:
    return FieldRule(lambda v: type(v) is str and v in names, f"one of {', '.join(names)}")


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and -1e9 < value < 1e9 and math.isfinite(value)


def _is_text(value: Any) -> bool:
    return type(value) is str and len(value) <= MAX_TEXT and value.isprintable()


def _channels(least: float, words: str) -> FieldRule:
    return FieldRule(
        lambda v: type(v) is tuple and len(v) == 3 and all(_is_number(x) and x > least for x in v),
        f"three numbers{words}, one for each channel",
    )


def _sizes(low: int, high: int) -> FieldRule:
    return FieldRule(
        lambda v: (
            type(v) is tuple and len(v) <= MAX_STAGES and all(type(x) is int and low <= x <= high for x in v)
        ),
        f"at most {MAX_STAGES} whole numbers from {low} to {high}, one for each stage",
    )


_FLAG = FieldRule(lambda v: type(v) is bool, "true or false")
_TEXT = FieldRule(_is_text, f"one printable line of at most {MAX_TEXT} characters")
_TEXTS = FieldRule(
    lambda v: type(v) is tuple and len(v) <= MAX_TEXTS and all(_is_text(x) for x in v),
    f"at most {MAX_TEXTS} printable lines of at most {MAX_TEXT} characters",
)

RULES: Mapping[str, FieldRule] = {
    "method": _TEXT,
    "width": _whole(1, 65536),
    "depth": _whole(1, 1000),
    "heads": _whole(1, 65536),
    "hidden": _whole(1, 2**20),
    "patch": _whole(1, 1024),
    "image_size": _whole(1, 65536),
    "ln_eps": FieldRule(lambda v: _is_number(v) and 0 < v < 1, "a number above 0 and below 1"),
    "class_token": _FLAG,
    "position": _choice("class_row", "patches", "none"),
    "registers": _whole(0, 4096),
    "layer_scale": _FLAG,
    "relative_position": _FLAG,
    "final_norm": _choice("norm", "fc_norm", "none"),
    "mlp": _choice("gelu", "swiglu"),
    "pooling": _choice("avg", "cls"),
    "mean": _channels(-math.inf, ""),
    "std": _channels(0, " above 0"),
    "channel_order": _choice("rgb", "bgr"),
    "epochs": FieldRule(
        lambda v: v is None or (type(v) is int and 0 <= v <= 10**9), "a whole number or null"
    ),
    "source": _TEXT,
    "source_sha256": _TEXT,
    "licence": _TEXT,
    "family": _TEXT,
    "branch": _TEXT,
    "dropped": _TEXTS,
    "transforms": _TEXTS,
    "kind": _choice("vit", *STAGED),
    "stage_widths": _sizes(1, 65536),
    "stage_depths": _sizes(1, 1000),
    "stage_heads": _sizes(0, 65536),
    "stage_hidden": _sizes(1, 2**20),
    "stage_strides": _sizes(1, 1024),
    "stage_windows": _sizes(1, 1024),
    "format_version": _whole(1, 2**31),
}


def fault_of(values: Mapping[str, Any]) -> str:
    """Find the first field whose value does not fit, alone or beside the others.

    Args:
        values: All fields of a header.

    Returns:
        Words for the fault, such as "width must be ... but is ..."; empty if there is none.
    """
    for name, rule in RULES.items():
        if not rule.allows(values[name]):
            return f"{name} must be {rule.words}, but is {_shown(values[name])}"
    if values["width"] % values["heads"]:
        return f"{values['heads']} heads do not divide a width of {values['width']}"
    if values["mlp"] == "swiglu" and values["hidden"] % 2:
        return f"a SwiGLU has two halves, which a hidden width of {values['hidden']} cannot"
    if values["patch"] > values["image_size"]:
        return f"a patch of {values['patch']} pixels does not fit an image of {values['image_size']}"
    return stage_fault(values)


def _shown(value: Any) -> str:
    # A whole number of very many digits refuses to be printed, and any text may be long.
    try:
        words = ascii(value)
    except (ValueError, RecursionError):
        words = "too large to show"
    return words if len(words) <= 60 else words[:57] + "..."
