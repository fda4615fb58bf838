"""What every place that images come from can do."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Protocol

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff"})
"""File names that count as images, in lower case."""


class Source(Protocol):
    """Encoded images with labels, in an order that depends on class and file names alone.

    The images are sorted by class, then by file name, so a folder and a tar of it number them alike. A source can be
    used in forked and in spawned processes.
    """

    classes: tuple[str, ...]
    """Sorted class names; the label is the position. Empty where classes are not known."""

    kind: str
    """The layout, in words."""

    where: str
    """The folder or file that was found."""

    def __len__(self) -> int:
        """Number of images."""
        ...

    def read(self, i: int) -> bytes:
        """The bytes of an image's file.

        Raises:
            OSError: They cannot be read.
        """
        ...

    def label(self, i: int) -> int:
        """The class of an image, -1 where it is not known."""
        ...

    def name(self, i: int) -> str:
        """Where the image is, for messages."""
        ...


def is_image(name: str) -> bool:
    """Whether a file name is that of an image; hidden files are none.

    Args:
        name: With or without folders, parts divided by slashes.
    """
    path = PurePosixPath(name)
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
