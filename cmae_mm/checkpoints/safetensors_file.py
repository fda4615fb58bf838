"""Open a safetensors file, after a look at its header.

The library compares sizes and places of tensors with the file. What it lets pass is refused here before: a header of up
to 100 MB, names that are there twice, shapes of any number of axes.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from cmae_mm.checkpoints.plain_json import parse_json
from cmae_mm.errors import UserError

MAX_HEADER = 1 << 22  # bytes; about a hundred for each tensor
MAX_NAME = 1000  # characters
MAX_AXES = 16


@contextlib.contextmanager
def open_safetensors(path: str | Path, advice: str) -> Iterator[Any]:
    """Open a safetensors file whose header holds.

    Args:
        path: The file.
        advice: What to do with a file that cannot be read, for the message.

    Yields:
        What ``safetensors.safe_open`` gives; tensors come on the CPU.

    Raises:
        UserError: If the file cannot be read, also while it is open, or its header lies.
    """
    try:
        _check_header(path)
        with safe_open(str(path), framework="pt") as handle:
            yield handle
    except UserError:
        raise
    except (
        SafetensorError,
        OSError,
        ValueError,
        LookupError,
        RuntimeError,
        AttributeError,
        TypeError,
    ) as error:
        # the last five: torch has no type of that name, or cannot make a tensor of that shape
        reason = str(error)[:200] or type(error).__name__
        raise UserError(f"{path}: not a readable safetensors file ({reason}); {advice}") from None


def _check_header(path: str | Path) -> None:
    """Raises: ValueError, if the header is not that of a file of weights."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        length = int.from_bytes(file.read(8), "little")
        if length > size - 8:
            raise ValueError(f"its header is said to have {length} bytes, the file has {size}")
        if length > MAX_HEADER:
            raise ValueError(f"its header has {length} bytes, of weights it has at most {MAX_HEADER}")
        header = parse_json(file.read(length))
    if not isinstance(header, dict):
        raise ValueError("its header is no JSON object")
    for name, entry in header.items():
        if len(name) > MAX_NAME:
            raise ValueError(f"a name in its header has {len(name)} characters")
        shape = entry.get("shape") if isinstance(entry, dict) else None
        if isinstance(shape, list) and len(shape) > MAX_AXES:
            raise ValueError(f"a tensor in its header has {len(shape)} axes")
