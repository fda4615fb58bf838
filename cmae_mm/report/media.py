"""Files that records name: only from inside the benchmark's folder, and only real pictures of a reasonable size."""

from __future__ import annotations

import base64
import struct
from dataclasses import dataclass
from pathlib import Path

_MAX_PICTURE = 6 << 20
_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Embedded:
    """A picture as it goes into a page.

    Attributes:
        address: ``data:`` address.
        width: In pixels; 0 if unknown.
        height: In pixels; 0 if unknown.
        size: Bytes of the file.
    """

    address: str
    width: int
    height: int
    size: int


def inside(root: Path, name: str) -> Path | None:
    """Returns: The path of a file or folder below a root; None if it is not there or lies elsewhere."""
    try:
        path = (root / name).resolve(strict=True)
    except (OSError, ValueError, RuntimeError):
        return None
    return path if path.is_relative_to(root.resolve()) else None


def embed(path: Path) -> Embedded | str:
    """Read a picture for a page.

    Args:
        path: PNG, JPEG or WebP, told by its content.

    Returns:
        The picture, or a sentence why it is left out.
    """
    if not path.is_file():
        return f"{path.name}: not a file"
    if (size := path.stat().st_size) > _MAX_PICTURE:
        return f"{path.name}: {size / 2**20:.0f} MiB is too large to embed"
    content = path.read_bytes()
    if content.startswith(_PNG) and len(content) > 24:
        width, height = struct.unpack(">II", content[16:24])
        kind = "png"
    elif content.startswith(b"\xff\xd8\xff"):
        (width, height), kind = _jpeg_size(content), "jpeg"
    elif content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        width, height, kind = 0, 0, "webp"
    else:
        return f"{path.name}: neither PNG nor JPEG nor WebP"
    address = f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
    return Embedded(address, width, height, size)


def _jpeg_size(content: bytes) -> tuple[int, int]:
    """Width and height from the first start-of-frame segment of a JPEG; zeros if there is none."""
    place = 2
    while place + 9 < len(content) and content[place] == 0xFF:
        marker, length = content[place + 1], int.from_bytes(content[place + 2 : place + 4], "big")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", content[place + 5 : place + 9])
            return width, height
        place += 2 + length
    return 0, 0
