"""Checks of image folders and label maps before a run (COCO: ``coco_checks.py``).

What is wrong is said in one sentence, before hours of computing. All files are looked at; only a sample is decoded in
full, so that a check takes seconds.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cmae_mm.data.image_files import check_images, existing_folder, listing, open_image, spread
from cmae_mm.errors import UserError

_GREY_MODES = frozenset({"L", "P", "1", "I", "I;16"})


def check_image_folder(root: Path, split: str = "train") -> dict[str, int]:
    """Check an ImageNet-style folder `root/split/<class>/<image>`.

    Args:
        root: Data root.
        split: Sub-folder, such as train or val.

    Returns:
        Number of images of each class.

    Raises:
        UserError: A folder is missing or empty, or an image cannot be read.
    """
    folder = existing_folder(Path(root) / split, "image")
    classes = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not classes:
        raise UserError(f"{folder} has no class folders; it must hold one folder of images for each class")
    images = {p.name: listing(p) for p in classes}
    for name, found in images.items():
        if not found:
            raise UserError(f"the class folder {folder / name} has no images; fill it or remove it")
    check_images([p for found in images.values() for p in found])
    return {name: len(found) for name, found in images.items()}


def _labels(path: Path) -> np.ndarray[Any, Any]:
    """A label map, (h, w); not an RGB picture."""
    try:
        with Image.open(path) as image:
            if image.mode not in _GREY_MODES:
                raise UserError(
                    f"the label map {path} is a colour image ({image.mode}); it must have one channel of class numbers"
                )
            return np.asarray(image)
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"cannot read the label map {path} ({error}); copy or download it again") from error


def _check_label_values(pairs: Sequence[tuple[Path, Path]], num_classes: int) -> None:
    lowest, highest = num_classes, 0
    for image, path in pairs:
        labels, size = _labels(path), open_image(image)
        if labels.shape != size[::-1]:
            raise UserError(
                f"{path} is {labels.shape[1]}x{labels.shape[0]} but its image is {size[0]}x{size[1]}; replace it"
            )
        low, high = int(labels.min()), int(labels.max())
        if high > num_classes:
            raise UserError(
                f"{path} has the label {high}, but there are only {num_classes} classes (1 to {num_classes}, "
                "0 for void, not 255); check the class list or the label maps"
            )
        lowest, highest = min(lowest, low), max(highest, high)
    if lowest == 0 and highest == num_classes - 1:
        warnings.warn(
            f"no label map near {pairs[0][1].parent} uses the label {num_classes}: are the classes numbered from 0? "
            "They must be numbered from 1, with 0 for void",
            stacklevel=3,
        )


def check_ade20k(images: Path, annotations: Path, num_classes: int, sample: int = 500) -> dict[str, int]:
    """Check a segmentation set in ADE20K layout: `<name>.jpg` with `<name>.png`.

    A label map holds 0 for void and 1 to `num_classes`. Maps that seem to be numbered from 0 give a warning.

    Args:
        images: Folder of images, such as `images/training`.
        annotations: Folder of label maps.
        num_classes: Number of classes without void.
        sample: At most so many label maps are decoded, evenly spread.

    Returns:
        Number of `images`.

    Raises:
        UserError: A folder or file is missing or unreadable, or a label map does not fit.
    """
    folder, labels = existing_folder(Path(images), "image"), existing_folder(Path(annotations), "label map")
    found = listing(folder)
    if not found:
        raise UserError(f"the folder {folder} has no images; check the data root")
    present = {p.name for p in labels.iterdir()}
    for path in found:
        if f"{path.stem}.png" not in present:
            raise UserError(
                f"the image {path.name} has no label map {path.stem}.png in {labels}; add it or remove the image"
            )
    check_images(found)
    _check_label_values([(p, labels / f"{p.stem}.png") for p in spread(found, sample)], num_classes)
    return {"images": len(found)}
