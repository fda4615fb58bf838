"""Image files that a check looks at: all are listed, many opened, a few decoded in full."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from PIL import Image

from cmae_mm.errors import UserError

DECODED, OPENED = 32, 2000
"""How many images are decoded in full, and of how many more the header is read."""

_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm"})
_ORIENTATION, _TURNED = 0x0112, frozenset({5, 6, 7, 8})  # EXIF: shown with width and height exchanged

_WITH_EXIF = frozenset({"JPEG", "MPO"})  # asking a PNG would decode it

Item = TypeVar("Item")


def spread(items: Sequence[Item], count: int) -> list[Item]:
    """At most `count` items, evenly spread, the first and the last among them.

    Args:
        items: What to choose from.
        count: 2 or more.

    Returns:
        The chosen ones in order.
    """
    if len(items) <= count:
        return list(items)
    return [items[k * (len(items) - 1) // (count - 1)] for k in range(count)]


def existing_folder(path: Path, what: str) -> Path:
    """The folder, if it is there.

    Args:
        path: Folder.
        what: What it holds, for the message.

    Returns:
        The same path.

    Raises:
        UserError: It is missing.
    """
    if not path.is_dir():
        raise UserError(
            f"there is no {what} folder {path}; check the data root, or make data with `cmae-mm data mini`"
        )
    return path


def listing(folder: Path) -> list[Path]:
    """Files of a folder that are images by their suffix, sorted, without hidden ones."""
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in _SUFFIXES and not p.name.startswith("."))


def open_image(path: Path, decode: bool = False) -> tuple[int, int]:
    """Read an image's header, or all of it.

    Args:
        path: Image file.
        decode: Decode the pixels too.

    Returns:
        Width and height in pixels as loaders see them: after the EXIF orientation.

    Raises:
        UserError: It cannot be read.
    """
    try:
        if path.stat().st_size == 0:
            raise UserError(f"the image {path} is an empty file; copy or download it again")
        with Image.open(path) as image:
            size = image.size
            turned = image.format in _WITH_EXIF and image.getexif().get(_ORIENTATION) in _TURNED
            if decode:
                image.load()
            else:
                image.verify()
            return size[::-1] if turned else size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(
            f"cannot read the image {path} ({error}); copy or download it again, or remove it"
        ) from error


def check_images(paths: Sequence[Path]) -> dict[Path, tuple[int, int]]:
    """Open many images and decode some of them, evenly spread.

    Args:
        paths: All images of a set.

    Returns:
        Width and height of those that were opened.

    Raises:
        UserError: One of them cannot be read.
    """
    decoded = set(spread(paths, DECODED))
    return {path: open_image(path, path in decoded) for path in decoded.union(spread(paths, OPENED))}
