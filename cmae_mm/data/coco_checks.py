"""Checks of a COCO detection set before a run: annotation file, entries, images (outlines: ``outlines.py``).

A file is read once; instances_train2017.json with its 860,000 objects takes some seconds.
"""

from __future__ import annotations

import gc
import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cmae_mm.data.image_files import check_images, existing_folder
from cmae_mm.data.outlines import check_outlines
from cmae_mm.errors import UserError

_LISTS = ("images", "annotations", "categories")
_BEYOND = 0.2  # of the boxes: so many leave the image only if their numbers mean something else
_SLACK = 1.0  # pixels that a box may leave the image by rounding

Row = dict[str, Any]


def check_coco(ann_file: Path, image_dir: Path, classes: Sequence[str] | None = None) -> dict[str, int]:
    """Check a COCO detection set.

    Args:
        ann_file: `instances_*.json`.
        image_dir: Folder of its images.
        classes: Category names of the config, in its order.

    Returns:
        Numbers of `images`, `annotations` and `categories`; and of what is harmless, but good to know:
        `empty images`, `crowd regions`, `boxes below one pixel`, `objects of other categories` and what
        :func:`~cmae_mm.data.outlines.check_outlines` counts.

    Raises:
        UserError: A file is missing or unreadable, is no COCO file, contradicts itself, the images or the
            config, or has broken boxes or outlines.
    """
    path, folder = Path(ann_file), Path(image_dir)
    whole = _load(path)
    existing_folder(folder, "image")
    try:
        _check_ids(path, whole)
        _check_categories(path, whole["categories"], classes)
        sizes = {row["id"]: _size(path, row) for row in whole["images"]}
        files = {folder / row["file_name"]: sizes[row["id"]] for row in whole["images"]}
        _check_files(path, folder, files)  # before the boxes: a wrong size puts them outside
        counts = {key: len(whole[key]) for key in _LISTS}
        counts |= _check_boxes(path, whole["annotations"], sizes)
        counts |= check_outlines(path, whole["annotations"], sizes)
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is not a complete COCO annotation file ({error!r}); correct the file"
        ) from error
    return counts | _harmless(path, whole, classes)


def describe(counts: dict[str, int]) -> str:
    """A check's numbers in a line.

    Args:
        counts: See :func:`check_coco`.

    Returns:
        The three totals, then what is harmless and not zero.
    """
    totals = ", ".join(f"{counts[key]:,} {key}" for key in _LISTS)
    told = ", ".join(f"{n:,} {what}" for what, n in counts.items() if n and what not in _LISTS)
    return f"{totals}; among them {told}" if told else totals


@contextmanager
def _without_collector() -> Iterator[None]:
    """No garbage collection: it would walk over millions of new lists again and again."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _load(path: Path) -> dict[str, Any]:
    """The annotation file, with its three lists present."""
    if not path.is_file():
        raise UserError(f"there is no annotation file {path}; check the data root")
    try:
        with _without_collector():
            whole = json.loads(path.read_bytes())
    except (ValueError, OSError, RecursionError) as error:
        raise UserError(
            f"the annotation file {path} is not JSON ({error}); copy or download it again"
        ) from error
    for key in _LISTS:
        if not isinstance(whole, dict) or not isinstance(whole.get(key), list):
            raise UserError(
                f"{path} is not a COCO annotation file: it has no list `{key}`; give an instances_*.json"
            )
    if not whole["images"]:
        raise UserError(f"the annotation file {path} lists no images; give one that does")
    return whole


def _check_ids(path: Path, whole: dict[str, Any]) -> None:
    """Ids that must differ, and ids that must exist."""
    for key in _LISTS:
        ids = [row["id"] for row in whole[key]]
        if len(set(ids)) < len(ids):
            twice = next(i for i, n in Counter(ids).items() if n > 1)
            raise UserError(f"{path} has the id {twice} more than once in `{key}`; make the ids unique")
    known = {
        "image_id": {r["id"] for r in whole["images"]},
        "category_id": {r["id"] for r in whole["categories"]},
    }
    for row in whole["annotations"]:
        for key, there in known.items():
            if row.get(key) not in there:
                raise UserError(
                    f"annotation {row['id']} in {path} has the unknown {key} {row.get(key)}; correct the file"
                )


def _check_categories(path: Path, rows: Sequence[Row], classes: Sequence[str] | None) -> None:
    names = [row["name"] for row in rows]
    if len(set(names)) < len(names):
        twice = next(name for name, n in Counter(names).items() if n > 1)
        raise UserError(f"{path} has two categories named {twice!r}; rename or merge one of them")
    shown = names if len(names) <= 10 else [*names[:10], "..."]
    absent = [name for name in classes or () if name not in set(names)]
    if absent:
        raise UserError(f"{path} has no category {absent[0]!r}; set the classes of the config to {shown}")
    # mmdet numbers the classes as the file lists them, whatever order the config has
    if classes and list(classes) != [name for name in names if name in set(classes)]:
        raise UserError(
            f"{path} lists its categories in another order than the config's classes, so that classes would get "
            f"wrong names; set the classes of the config to {shown}"
        )


def _size(path: Path, row: Row) -> tuple[int, int]:
    """Width and height of an image entry."""
    size = row["width"], row["height"]
    if not all(isinstance(n, int) and n > 0 for n in size):
        raise UserError(
            f"image {row['id']} in {path} has the size {size}; width and height are pixels, 1 or more"
        )
    return size


def _check_boxes(path: Path, rows: Sequence[Row], sizes: dict[Any, tuple[int, int]]) -> dict[str, int]:
    tiny = beyond = 0
    example = None
    for row in rows:
        box, area = row.get("bbox", ()), row.get("area")
        if len(box) != 4:
            raise UserError(f"annotation {row['id']} in {path} has no bbox of four numbers; correct the file")
        if area is None:
            raise UserError(f"annotation {row['id']} in {path} has no area; add it (pixels of the object)")
        if not (math.isfinite(sum(box)) and math.isfinite(area)):
            raise UserError(
                f"annotation {row['id']} in {path} has a bbox or area that is not finite ({box}, {area}); correct it"
            )
        x, y, w, h = box
        width, height = sizes[row["image_id"]]
        tiny += w < 1 or h < 1 or area <= 0
        if x < -_SLACK or y < -_SLACK or x + w > width + _SLACK or y + h > height + _SLACK:
            beyond, example = beyond + 1, example or row
    if example and beyond > _BEYOND * len(rows):
        raise UserError(
            f"{beyond} of {len(rows)} boxes in {path} leave their image, such as {example['bbox']} of annotation "
            f"{example['id']} in {sizes[example['image_id']]}; a bbox is x, y, width, height in pixels of that image"
        )
    return {"boxes below one pixel (left out)": tiny, "boxes beyond the image (cut)": beyond}


def _harmless(path: Path, whole: dict[str, Any], classes: Sequence[str] | None) -> dict[str, int]:
    """Counts of what a run copes with."""
    rows = whole["annotations"]
    with_objects = {row["image_id"] for row in rows}
    if not with_objects:
        raise UserError(f"{path} has no annotation at all; give the file of a labelled set")
    wanted = {row["id"] for row in whole["categories"] if not classes or row["name"] in set(classes)}
    return {
        "empty images": len(whole["images"]) - len(with_objects),
        "crowd regions (left out of training)": sum(bool(row.get("iscrowd")) for row in rows),
        "objects of categories that the config does not name": sum(
            row["category_id"] not in wanted for row in rows
        ),
    }


def _check_files(path: Path, folder: Path, files: dict[Path, tuple[int, int]]) -> None:
    present = {p.name for p in folder.iterdir()}
    for image in files:
        if image.name not in present and not image.is_file():
            raise UserError(f"{path} lists {image.name}, which is not in {folder}; check the image folder")
    for image, size in check_images(list(files)).items():
        if size != files[image]:
            raise UserError(
                f"{image} is {size[0]}x{size[1]} but {path} says {files[image][0]}x{files[image][1]}; "
                "use the files of one release"
            )
