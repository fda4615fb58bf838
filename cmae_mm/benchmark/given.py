"""Given weights: whether a file is a backbone file already, told by its header alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_KEY = "cmae_mm"
_MOST = 1 << 26
_ARCHES = {
    ("vit", 384, 12, 16): "ViT-S/16",
    ("vit", 768, 12, 16): "ViT-B/16",
    ("vit", 1024, 24, 16): "ViT-L/16",
    ("vit", 1280, 32, 14): "ViT-H/14",
    ("vit", 128, 6, 8): "ViT-mini/8",
}


def header_of(file: str | Path) -> dict[str, Any]:
    """Read the header of a backbone file.

    Args:
        file: Path of any file, or an address.

    Returns:
        Its fields; empty if it is no backbone file of this suite.
    """
    try:
        with open(file, "rb") as handle:  # safetensors: length, then JSON
            length = int.from_bytes(handle.read(8), "little")
            outer: Any = json.loads(handle.read(length)) if length < _MOST else {}
        found = json.loads(outer["__metadata__"][_KEY])
    except (OSError, ValueError, TypeError, KeyError, RecursionError, MemoryError):
        return {}
    return found if isinstance(found, dict) else {}


def arch_of(file: str | Path) -> str:
    """Returns: The architecture in a backbone file as tables name it; empty if unknown."""
    about = header_of(file)
    try:
        return _ARCHES.get((about["kind"], about["width"], about["depth"], about["patch"]), "")
    except (KeyError, TypeError):
        return ""
