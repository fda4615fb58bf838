"""JSON from files of others, without what the standard reader lets pass."""

from __future__ import annotations

import json
from typing import Any


def parse_json(text: str | bytes) -> Any:
    """Read JSON in which every name is there once and every number is one.

    Args:
        text: JSON; bytes must be UTF-8.

    Returns:
        Plain values.

    Raises:
        ValueError: For anything else: not JSON, names that are there twice, NaN, lists within lists without end, or a
            number of too many digits. The message is one short line.
    """
    try:
        return json.loads(
            text.decode() if isinstance(text, bytes) else text,
            object_pairs_hook=_object,
            parse_constant=_constant,
        )
    except RecursionError:
        raise ValueError("it nests too deep") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("a name is there twice")
    return made


def _constant(name: str) -> Any:
    raise ValueError(f"{name} is no number")
