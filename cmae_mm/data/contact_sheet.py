"""Contact sheets: a look at a data set, with its boxes, masks or labels painted over it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cmae_mm.data.taxonomy import PALETTE_ADE20K, PALETTE_COCO
from cmae_mm.errors import UserError

Image = NDArray[np.uint8]
_SUFFIXES = {".jpg", ".jpeg", ".png"}


def _read(path: Path, flag: int = cv2.IMREAD_COLOR) -> Image:
    image = cv2.imread(str(path), flag)
    if image is None:
        raise UserError(f"cannot read the image {path}; check that it exists and is complete")
    return image.astype(np.uint8) if image.ndim == 2 else image[..., ::-1].astype(np.uint8)


def _fit(image: Image, size: int) -> Image:
    """Scale to fit a square of `size` and put it on a dark ground."""
    scale = size / max(image.shape[:2])
    shape = [max(int(n * scale), 1) for n in image.shape[1::-1]]
    small = cv2.resize(image, shape, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST)
    tile = np.full((size, size, 3), 24, np.uint8)
    tile[: small.shape[0], : small.shape[1]] = small
    return tile


def _save(tiles: Sequence[Image], columns: int, png: Path) -> None:
    if not tiles:
        raise UserError("there is no image to put on a contact sheet; check the folder")
    blank = np.full_like(tiles[0], 24)
    tiles = [*tiles, *[blank] * (-len(tiles) % columns)]
    padded = [cv2.copyMakeBorder(t, 0, 2, 0, 2, cv2.BORDER_CONSTANT, value=(0, 0, 0)) for t in tiles]
    rows = [np.hstack(padded[k : k + columns]) for k in range(0, len(padded), columns)]
    png.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(png), np.vstack(rows)[..., ::-1]):
        raise UserError(f"cannot write {png}; give a name that ends in .png in a folder you can write to")


def _images(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}; give the root of the data set")
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in _SUFFIXES)


def _spread(items: Sequence[Any], count: int) -> list[Any]:
    """`count` items, evenly spread over the sequence."""
    if len(items) <= count:
        return list(items)
    return [items[int(k)] for k in np.linspace(0, len(items) - 1, count)]


def imagenet_sheet(folder: Path, png: Path, split: str = "train", columns: int = 10, size: int = 96) -> None:
    """One row for each class of an image folder.

    Args:
        folder: Root with `<split>/<class>/*.jpg`.
        png: File to write.
        split: Which part.
        columns: Images of each class.
        size: Side of a tile in pixels.
    """
    root = Path(folder) / split
    if not root.is_dir():
        raise UserError(f"there is no folder {root}; give the root of the image folder and its split")
    tiles: list[Image] = []
    for sub in sorted(p for p in root.iterdir() if p.is_dir()):
        row = [_fit(_read(p), size) for p in _spread(_images(sub), columns)]
        tiles += row + [np.full((size, size, 3), 24, np.uint8)] * (columns - len(row))
    _save(tiles, columns, Path(png))


def _draw_instances(image: Image, entries: Iterable[dict[str, Any]], order: dict[int, int]) -> Image:
    from pycocotools import mask as masks

    h, w = image.shape[:2]
    shown = image.astype(np.float32)
    boxes = []
    for entry in entries:
        runs = masks.frPyObjects(entry["segmentation"], h, w)
        visible = masks.decode(masks.merge(runs) if isinstance(runs, list) else runs) > 0
        colour = PALETTE_COCO[order[entry["category_id"]] % len(PALETTE_COCO)]
        shown[visible] = shown[visible] * 0.45 + np.array(colour) * 0.55
        boxes.append((entry["bbox"], (255, 255, 0) if entry["iscrowd"] else colour))
    result = shown.astype(np.uint8)
    for (x, y, width, height), colour in boxes:
        corner = (int(x + width) - 1, int(y + height) - 1)
        cv2.rectangle(result, (int(x), int(y)), corner, colour, 1)
    return result


def coco_sheet(
    folder: Path, png: Path, split: str = "train", count: int = 30, columns: int = 6, size: int = 160
) -> None:
    """Images beside themselves with masks and boxes; crowd regions have a yellow box.

    Args:
        folder: Root with `<split>2017/` and `annotations/`.
        png: File to write.
        split: train or val.
        count: Number of images.
        columns: Pairs in a row.
        size: Side of a tile in pixels.
    """
    path = Path(folder) / "annotations" / f"instances_{split}2017.json"
    try:
        whole = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"cannot read the annotations {path}; give the root of a COCO data set") from error
    order = {c["id"]: k for k, c in enumerate(whole["categories"])}
    tiles: list[Image] = []
    for row in _spread(whole["images"], count):
        image = _read(Path(folder) / f"{split}2017" / row["file_name"])
        entries = [a for a in whole["annotations"] if a["image_id"] == row["id"]]
        tiles += [_fit(image, size), _fit(_draw_instances(image, entries, order), size)]
    _save(tiles, 2 * columns, Path(png))


def ade20k_sheet(
    folder: Path, png: Path, split: str = "training", count: int = 30, columns: int = 6, size: int = 128
) -> None:
    """Images beside their label maps; void is black.

    Args:
        folder: Root with `images/<split>/` and `annotations/<split>/`.
        png: File to write.
        split: training or validation.
        count: Number of images.
        columns: Pairs in a row.
        size: Side of a tile in pixels.
    """
    palette = np.zeros((256, 3), np.uint8)
    palette[1:] = [PALETTE_ADE20K[k % len(PALETTE_ADE20K)] for k in range(255)]
    tiles: list[Image] = []
    for path in _spread(_images(Path(folder) / "images" / split), count):
        labels = _read(Path(folder) / "annotations" / split / f"{path.stem}.png", cv2.IMREAD_GRAYSCALE)
        tiles += [_fit(_read(path), size), _fit(palette[labels], size)]
    _save(tiles, 2 * columns, Path(png))


def contact_sheets(root: Path, out: Path) -> list[Path]:
    """One sheet for each of the three sets of the mini data.

    Args:
        root: Folder that `make_mini` filled.
        out: Folder for the pictures.

    Returns:
        The files written.
    """
    root, out = Path(root), Path(out)
    imagenet_sheet(root / "imagenet", out / "imagenet.png")
    coco_sheet(root / "coco", out / "coco.png")
    ade20k_sheet(root / "ade20k", out / "ade20k.png")
    return [out / f"{name}.png" for name in ("imagenet", "coco", "ade20k")]
