"""Checks of data before a run: what is wrong is said in one sentence, before hours of computing.

All files are looked at; only a sample is decoded in full, so that a check takes seconds.
"""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cmae_mm.errors import UserError

DECODED, OPENED = 32, 2000
"""How many images are decoded in full, and of how many more the header is read."""

_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm"})
_GREY_MODES = frozenset({"L", "P", "1", "I", "I;16"})


def _spread(items: Sequence[Path], count: int) -> list[Path]:
    """At most `count` items, evenly spread."""
    if len(items) <= count:
        return list(items)
    return [items[int(k)] for k in np.linspace(0, len(items) - 1, count)]


def _folder(path: Path, what: str) -> Path:
    if not path.is_dir():
        raise UserError(
            f"there is no {what} folder {path}; check the data root, or make data with `cmae-mm data mini`"
        )
    return path


def _listing(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in _SUFFIXES and not p.name.startswith("."))


def _open(path: Path, decode: bool) -> tuple[int, int]:
    """Read an image's header, or all of it; returns width and height."""
    try:
        if path.stat().st_size == 0:
            raise UserError(f"the image {path} is an empty file; copy or download it again")
        with Image.open(path) as image:
            size = image.size
            if decode:
                image.load()
            else:
                image.verify()
            return size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(
            f"cannot read the image {path} ({error}); copy or download it again, or remove it"
        ) from error


def _check_images(paths: Sequence[Path]) -> None:
    decoded = set(_spread(paths, DECODED))
    for path in decoded | set(_spread(paths, OPENED)):
        _open(path, decode=path in decoded)


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
    folder = _folder(Path(root) / split, "image")
    classes = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not classes:
        raise UserError(f"{folder} has no class folders; it must hold one folder of images for each class")
    images = {p.name: _listing(p) for p in classes}
    for name, found in images.items():
        if not found:
            raise UserError(f"the class folder {folder / name} has no images; fill it or remove it")
    _check_images([p for found in images.values() for p in found])
    return {name: len(found) for name, found in images.items()}


def _load_coco(path: Path) -> dict[str, Any]:
    """The annotation file, with its three lists present."""
    if not path.is_file():
        raise UserError(f"there is no annotation file {path}; check the data root")
    try:
        whole = json.loads(path.read_bytes())
    except (ValueError, OSError, RecursionError) as error:
        raise UserError(
            f"the annotation file {path} is not JSON ({error}); copy or download it again"
        ) from error
    for key in ("images", "annotations", "categories"):
        if not isinstance(whole, dict) or not isinstance(whole.get(key), list):
            raise UserError(
                f"{path} is not a COCO annotation file: it has no list `{key}`; give an instances_*.json"
            )
    if not whole["images"]:
        raise UserError(f"the annotation file {path} lists no images; give one that does")
    return whole


def _check_entries(path: Path, whole: dict[str, Any]) -> None:
    """Ids that must exist, ids that must differ, and shapes of boxes."""
    for key in ("images", "annotations", "categories"):
        twice = [i for i, n in Counter(row["id"] for row in whole[key]).items() if n > 1]
        if twice:
            raise UserError(f"{path} has the id {twice[0]} more than once in `{key}`; make the ids unique")
    images, categories = ({row["id"] for row in whole[k]} for k in ("images", "categories"))
    for row in whole["annotations"]:
        for key, known in (("image_id", images), ("category_id", categories)):
            if row.get(key) not in known:
                raise UserError(
                    f"annotation {row['id']} in {path} has the unknown {key} {row.get(key)}; correct the file"
                )
        if len(row.get("bbox", ())) != 4:
            raise UserError(f"annotation {row['id']} in {path} has no bbox of four numbers; correct the file")


def check_coco(ann_file: Path, image_dir: Path, classes: Sequence[str] | None = None) -> dict[str, int]:
    """Check a COCO detection set.

    Args:
        ann_file: `instances_*.json`.
        image_dir: Folder of its images.
        classes: Category names that must be there, such as the `classes` of a config.

    Returns:
        Numbers of `images`, `annotations` and `categories`.

    Raises:
        UserError: A file is missing or unreadable, is no COCO file, contradicts itself or the images.
    """
    path, folder = Path(ann_file), Path(image_dir)
    whole = _load_coco(path)
    _folder(folder, "image")
    try:
        _check_entries(path, whole)
        rows = [(folder / row["file_name"], (row["width"], row["height"])) for row in whole["images"]]
        names = {row["name"] for row in whole["categories"]}
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is not a complete COCO annotation file ({error!r}); correct the file"
        ) from error
    absent = [name for name in classes or () if name not in names]
    if absent:
        raise UserError(
            f"{path} has no category {absent[0]!r}; set the classes of the config to {sorted(names)[:10]}"
        )
    present = {p.name for p in folder.iterdir()}
    for image, _ in rows:
        if image.name not in present and not image.is_file():
            raise UserError(f"{path} lists {image.name}, which is not in {folder}; check the image folder")
    _check_images([image for image, _ in rows])
    sizes = dict(rows)
    for image in _spread(sorted(sizes), DECODED):
        size = _open(image, decode=False)
        if size != sizes[image]:
            raise UserError(
                f"{image} is {size[0]}x{size[1]} but {path} says {sizes[image]}; use the files of one release"
            )
    return {key: len(whole[key]) for key in ("images", "annotations", "categories")}


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
        labels, size = _labels(path), _open(image, decode=False)
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
    folder, labels = _folder(Path(images), "image"), _folder(Path(annotations), "label map")
    found = _listing(folder)
    if not found:
        raise UserError(f"the folder {folder} has no images; check the data root")
    present = {p.name for p in labels.iterdir()}
    for path in found:
        if f"{path.stem}.png" not in present:
            raise UserError(
                f"the image {path.name} has no label map {path.stem}.png in {labels}; add it or remove the image"
            )
    _check_images(found)
    _check_label_values([(p, labels / f"{p.stem}.png") for p in _spread(found, sample)], num_classes)
    return {"images": len(found)}
