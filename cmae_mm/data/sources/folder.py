"""Images as files: a folder for each class, or all in one folder."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from cmae_mm.data.sources.base import is_image
from cmae_mm.data.sources.names import Names


class FolderSource:
    """Images in ``folder/class/image``, or unlabelled ones in ``folder/image``.

    Args:
        folder: Such as ``imagenet/train``.
    """

    def __init__(self, folder: Path) -> None:
        self.where = str(folder)
        found = sorted(p.name for p in os.scandir(folder) if p.is_dir() and not p.name.startswith("."))
        files = [
            (label, f"{name}/{file}") for label, name in enumerate(found) for file in _images(folder / name)
        ]
        if files:
            self.classes: tuple[str, ...] = tuple(found)
            self.kind = "folder of class folders"
        else:
            files = [(-1, file) for file in _images(folder, deep=False)]
            self.classes = ()
            self.kind = "folder of images without classes"
        self._labels = np.array([label for label, _ in files], np.int32)
        self._names = Names.of(name for _, name in files)

    def __len__(self) -> int:
        return len(self._names)

    def read(self, i: int) -> bytes:
        """The bytes of image ``i``; OSError where they cannot be read."""
        with open(self.name(i), "rb") as file:
            return file.read()

    def label(self, i: int) -> int:
        """The class of image ``i`` or -1."""
        return int(self._labels[i])

    def name(self, i: int) -> str:
        """The path of image ``i``."""
        return os.path.join(self.where, self._names[i])


def _images(folder: Path, deep: bool = True) -> list[str]:
    """Sorted paths of the images in a folder, seen from there; with those of folders in it if ``deep``."""
    found = []
    for place, folders, files in os.walk(folder, followlinks=True):
        inside = os.path.relpath(place, folder)
        found += [os.path.normpath(os.path.join(inside, file)) for file in files if is_image(file)]
        if not deep:
            folders.clear()
    return sorted(found)
