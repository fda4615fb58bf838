"""Checks of a segmentation set in ADE20K layout before a run: each mistake in one sentence.

All names are compared; only a sample of the label maps is decoded, so that a check takes seconds.
"""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cmae_mm.data.image_files import check_images, existing_folder, open_image, spread
from cmae_mm.errors import UserError

SAMPLE = 500
"""How many label maps are decoded."""

_NAMED = 3  # file names in a message


@dataclass(frozen=True)
class SegmentationSet:
    """What a check found.

    Attributes:
        images: Pairs of image and label map.
        decoded: How many label maps were decoded.
        void: Share of their pixels that is void, in [0, 1].
        used: Classes that occur in them.
        classes: Classes there are.
    """

    images: int
    decoded: int
    void: float
    used: int
    classes: int

    def __str__(self) -> str:
        sample = "" if self.decoded == self.images else f" (of {self.decoded} label maps)"
        return (
            f"{self.images} images with label maps, {100 * self.void:.1f} % of the pixels void, "
            f"{self.used} of {self.classes} classes occur{sample}"
        )


def check_ade20k(
    images: Path, annotations: Path, num_classes: int, image_suffix: str = ".jpg", sample: int = SAMPLE
) -> SegmentationSet:
    """Check a segmentation set in ADE20K layout: `<name>.jpg` with `<name>.png`.

    A label map is an 8-bit image of one channel that holds 0 for void and 1 to `num_classes`. Maps that seem to
    be numbered from 0, and palette images, whose indices count, give a warning.

    Args:
        images: Folder of images, such as `images/training`; folders in it are read too.
        annotations: Folder of label maps.
        num_classes: Number of classes without void.
        image_suffix: Ending of the images' names; the data set reads no others.
        sample: At most so many label maps are decoded, evenly spread.

    Returns:
        What was found.

    Raises:
        UserError: A folder or file is missing or unreadable, or a label map does not fit.
    """
    folder = existing_folder(Path(images), "image")
    labels = existing_folder(Path(annotations), "label map")
    names = _pairs(folder, labels, image_suffix)
    found = [folder / f"{name}{image_suffix}" for name in names]
    check_images(found)
    pairs = spread(list(zip(found, (labels / f"{name}.png" for name in names), strict=True)), sample)
    with ThreadPoolExecutor(4) as pool:  # decoding releases the interpreter
        counts = np.stack(list(pool.map(lambda pair: _count(pair[0], pair[1], num_classes), pairs)))
    total = counts.sum(axis=0)
    _warn_of_numbering(total, labels, num_classes)
    void = float(total[0] / total.sum())
    return SegmentationSet(len(names), len(pairs), void, int((total[1:] > 0).sum()), num_classes)


def _pairs(folder: Path, labels: Path, image_suffix: str) -> list[str]:
    """Names that both folders have, without suffix; every name must be in both."""
    images, others = _names(folder, image_suffix)
    if not images:
        advice = "check the data root"
        if others:
            advice = f"it has {len(others)} other files, such as {others[0]}: rename or convert them"
        raise UserError(f"the folder {folder} has no *{image_suffix} images; {advice}")
    maps, _ = _names(labels, ".png")
    if not maps:
        raise UserError(f"the folder {labels} has no *.png label maps; check the data root")
    _refuse_lacking(sorted(images - maps), "image", "label map", ".png", labels)
    _refuse_lacking(sorted(maps - images), "label map", "image", image_suffix, folder)
    return sorted(images)


def _names(folder: Path, suffix: str) -> tuple[set[str], list[str]]:
    """Names of the files with a suffix, and other files; hidden ones do not count."""
    names, others = set(), []
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".")):
        relative = path.relative_to(folder).as_posix()
        if relative.endswith(suffix):
            names.add(relative[: -len(suffix)])
        else:
            others.append(relative)
    return names, others


def _refuse_lacking(names: list[str], has: str, lacks: str, suffix: str, where: Path) -> None:
    """Stop where files have no partner, and name some of those that are missing."""
    if not names:
        return
    missing = [f"{name}{suffix}" for name in names]
    if len(missing) == 1:
        raise UserError(
            f"one {has} has no {lacks} in {where}: {missing[0]} is missing; add it, or remove the {has}"
        )
    more = len(missing) - _NAMED
    listed = ", ".join(missing[:_NAMED]) + (f" and {more} more" if more > 0 else "")
    raise UserError(
        f"{len(missing)} {has}s have no {lacks} in {where}: {listed} are missing; add them, or remove the {has}s"
    )


def _count(image: Path, path: Path, num_classes: int) -> np.ndarray[Any, Any]:
    """Pixels of each value 0 to `num_classes` of a label map that fits its image."""
    labels, palette = _read(path)
    size = open_image(image)
    if labels.shape != size[::-1]:
        raise UserError(
            f"the label map {path} is {labels.shape[1]}x{labels.shape[0]} but its image {image.name} is "
            f"{size[0]}x{size[1]}; use the files of one release"
        )
    counts = np.bincount(labels.reshape(-1), minlength=num_classes + 1)
    if len(counts) > num_classes + 1:
        raise UserError(_out_of_range(path, np.flatnonzero(counts), num_classes, palette))
    return counts


def _read(path: Path) -> tuple[np.ndarray[Any, Any], bool]:
    """A label map (h, w) uint8, and whether it has a palette."""
    try:
        with Image.open(path) as image:
            mode = image.mode
            if mode[0] in "IF":  # I;16 is what a 16-bit PNG opens as
                raise UserError(
                    f"the label map {path} has 16 or 32 bits a pixel, of which loading would keep the lowest 8; save "
                    "the class numbers as an 8-bit image of one channel"
                )
            if mode not in ("L", "P", "1"):
                raise UserError(
                    f"the label map {path} is a colour image ({mode}); it must have one channel of class numbers: "
                    "replace each colour by the number of its class"
                )
            return np.asarray(image).astype(np.uint8, copy=False), mode == "P"
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"cannot read the label map {path} ({error}); copy or download it again") from error


def _out_of_range(path: Path, values: np.ndarray[Any, Any], num_classes: int, palette: bool) -> str:
    """The sentence for a label above the class list, by what it looks like."""
    highest = int(values[-1])
    said = f"the label map {path} has the label {highest}, but there are only {num_classes} classes"
    legal = f"1 to {num_classes}, 0 for void"
    if highest == 255 and int(values[:-1].max(initial=0)) < num_classes:
        return (
            f"{said}: it seems to be numbered from 0 with 255 for void; add 1 to every label, so that void becomes 0 "
            f"({legal})"
        )
    if palette:
        return (
            f"{said}: it is a palette image whose indices are no class numbers; save class numbers ({legal})"
        )
    return f"{said} ({legal}, not 255); check the class list or the label maps"


def _warn_of_numbering(total: np.ndarray[Any, Any], labels: Path, num_classes: int) -> None:
    if total[0] and not total[num_classes] and total[num_classes - 1]:
        warnings.warn(
            f"no label map in {labels} uses the label {num_classes}, but some use 0 and {num_classes - 1}: are the "
            "classes numbered from 0? They must be numbered from 1, with 0 for void",
            stacklevel=3,
        )
