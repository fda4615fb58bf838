"""Folders of ImageNet's robustness sets: which images there are, which class of the model each shows, which compete."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cmae_mm.data.image_files import existing_folder, listing
from cmae_mm.data.imagenet_layout import WNID, wnids
from cmae_mm.errors import UserError

_VAL = re.compile(r"ILSVRC2012_val_(\d{8})")


@dataclass(frozen=True)
class ImageSet:
    """Images with labels.

    Attributes:
        name: As in the record.
        files: Image files.
        labels: Class of the model for each file.
        columns: Classes that compete, ascending; None if all do.
    """

    name: str
    files: tuple[Path, ...]
    labels: tuple[int, ...]
    columns: tuple[int, ...] | None = None

    def keys(self) -> list[str]:
        """A short name of each file: folder and file name."""
        return [f"{path.parent.name}/{path.name}" for path in self.files]

    def subset(self, count: int | None, seed: int) -> ImageSet:
        """A random part.

        Args:
            count: Images; None or more than there are keeps all.
            seed: Of the draw.

        Returns:
            The part, in the same order.
        """
        if count is None or count >= len(self.files):
            return self
        rows = np.sort(np.random.default_rng(seed).permutation(len(self.files))[:count])
        files, labels = tuple(self.files[i] for i in rows), tuple(self.labels[i] for i in rows)
        return ImageSet(self.name, files, labels, self.columns)


def classes_of(dataset: Any) -> tuple[str, ...]:
    """Folder name of each class of a model's own data set.

    Args:
        dataset: Of mmpretrain; ``ImageNet`` names its classes in English, others by folder.

    Returns:
        The names in the order of the labels.
    """
    names = tuple(dataset.CLASSES)
    english = any(base.__name__ == "ImageNet" for base in type(dataset).__mro__)
    return wnids() if english and len(names) == 1000 else names


def own_set(dataset: Any) -> ImageSet:
    """The model's own evaluation images (``clean``)."""
    rows = [dataset.get_data_info(i) for i in range(len(dataset))]
    return ImageSet(
        "clean", tuple(Path(r["img_path"]) for r in rows), tuple(int(r["gt_label"]) for r in rows)
    )


def folder_set(name: str, root: Path, classes: Sequence[str], masked: bool = True) -> ImageSet:
    """A set with one folder for each class: ImageNet-A, -R, -Sketch, one severity of -C.

    Args:
        name: For the record and messages.
        root: Folder of class folders.
        classes: Folder name of each class of the model.
        masked: Only the classes that have a folder compete.

    Returns:
        The images, sorted by folder and name.

    Raises:
        UserError: It is empty, or a folder is no class of the model.
    """
    folders = _class_folders(root, name)
    place = {wnid: i for i, wnid in enumerate(classes)}
    unknown = [f.name for f in folders if f.name not in place]
    if unknown:
        raise UserError(
            f"{root}: the folder {unknown[0]} is no class of the model, which has {len(classes)} ({classes[0]} ...); "
            f"give the folder of {name}, and a model of its classes"
        )
    files, labels = _files(folders, [place[f.name] for f in folders])
    columns = tuple(sorted(place[f.name] for f in folders)) if masked else None
    return ImageSet(name, files, labels, columns if columns is None or len(columns) < len(classes) else None)


def v2_set(name: str, root: Path, classes: Sequence[str]) -> ImageSet:
    """One of the ImageNet-V2 sets. Its folders are numbers without leading zeros: sorted by name they mix the classes.

    Args:
        name: For the record and messages.
        root: Folder of the folders 0 to 999; synsets, as an older archive had them, are taken too.
        classes: Folder name of each class of the model.

    Returns:
        The images.

    Raises:
        UserError: Folders are neither numbers nor synsets, or the model has other classes.
    """
    folders = _class_folders(root, name)
    if all(WNID.fullmatch(f.name) for f in folders):
        return folder_set(name, root, classes, masked=False)
    numbers = [int(f.name) if f.name.isdecimal() else -1 for f in folders]
    if min(numbers) < 0 or tuple(classes) != wnids() or max(numbers) >= len(classes):
        raise UserError(
            f"{root}: {name} has folders 0 to 999 for ImageNet's classes; give its folder, and a model of these classes"
        )
    return ImageSet(name, *_files(folders, numbers))


def corruption_folders(root: Path) -> dict[str, dict[int, Path]]:
    """Find ImageNet-C's folders: ``corruption/severity`` in the root, or one level below, as its tars unpack.

    Args:
        root: Where it was unpacked.

    Returns:
        Corruption to severity to folder of class folders.

    Raises:
        UserError: There is none.
    """
    existing_folder(root, "ImageNet-C")
    found: dict[str, dict[int, Path]] = {}
    for folder in sorted([*root.glob("*/[1-5]"), *root.glob("*/*/[1-5]")]):
        if folder.is_dir():
            found.setdefault(folder.parent.name, {})[int(folder.name)] = folder
    if not found:
        raise UserError(f"{root}: has no folders such as gaussian_noise/1; give the folder of ImageNet-C")
    return found


def read_real_labels(path: Path, files: Sequence[Path]) -> list[frozenset[int]]:
    """ImageNet-ReaL's labels of validation images, by the number in the file's name.

    Args:
        path: ``real.json``: for image k = 1, 2, ... a list of labels at place k - 1.
        files: Validation images.

    Returns:
        The labels of each; none where the annotators saw none of the classes.

    Raises:
        UserError: The file is another one, or an image has another name.
    """
    try:
        lists = json.loads(Path(path).read_text())
        sets = [frozenset(int(label) for label in labels) for labels in lists]
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise UserError(
            f"{path}: is no list of ImageNet-ReaL's labels ({error}); give its real.json"
        ) from None
    numbers = []
    for file in files:
        found = _VAL.match(file.stem)
        if not found or not 1 <= int(found[1]) <= len(sets):
            raise UserError(
                f"{file}: ImageNet-ReaL has labels for ILSVRC2012_val_00000001 to _{len(sets):08d} only; give the "
                f"original validation images"
            )
        numbers.append(int(found[1]) - 1)
    return [sets[n] for n in numbers]


def _class_folders(root: Path, name: str) -> list[Path]:
    folder = existing_folder(Path(root), name)
    found = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not found:
        raise UserError(f"{root}: has no class folders; give the folder of {name}")
    return found


def _files(folders: Sequence[Path], labels: Sequence[int]) -> tuple[tuple[Path, ...], tuple[int, ...]]:
    pairs = [(path, label) for folder, label in zip(folders, labels, strict=True) for path in listing(folder)]
    if not pairs:
        raise UserError(f"{folders[0].parent}: its class folders hold no images; unpack the set again")
    return tuple(p for p, _ in pairs), tuple(n for _, n in pairs)
