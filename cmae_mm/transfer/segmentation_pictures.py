"""``tools/visualize_segmentation.py``: image, truth, prediction and errors side by side, with the classes below."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmengine.registry import DATASETS
from mmseg.datasets import ADE20KDataset
from PIL import Image, ImageDraw

from cmae_mm.data.taxonomy import CLASSES_ADE20K, PALETTE_ADE20K
from cmae_mm.engine.inference import load_model, picture_config, picture_parser, predict
from cmae_mm.errors import UserError
from cmae_mm.transfer.draw_instances import RGB, class_colors, font
from cmae_mm.transfer.draw_segments import Entry, Segmented, entries, panels

TITLES = ("image", "ground truth", "prediction", "errors (red), void striped")
_TILE, _GAP, _TOP, _NAME, _LINE = 380, 10, 34, 30, 24
_INK, _PALE = (35, 35, 35), (125, 125, 125)


def segmentations_main(argv: Sequence[str] | None = None) -> int:
    """Draw chosen images of a segmentation set.

    Args:
        argv: Words of the command line; those of the process if None.

    Returns:
        Exit code 0.

    Raises:
        UserError: For a wrong path, architecture, image or number.
    """
    args = _arguments(argv)
    cfg = picture_config(args, "val")
    model = load_model(cfg, args.checkpoint)
    dataset = DATASETS.build(cfg.val_dataloader.dataset)
    classes = tuple(dataset.metainfo["classes"])
    rows = [_segmented(model, dataset, k) for k in _chosen(dataset, args)]
    save_sheet(rows, classes, segmentation_colors(classes), args.out)
    print(f"{args.out}: {len(rows)} images: {', '.join(TITLES)}")
    return 0


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = picture_parser("Draw image, ground truth, prediction and errors side by side.")
    parser.add_argument("checkpoint", help="checkpoint (.pth) that was trained with the config")
    parser.add_argument(
        "--images",
        nargs="+",
        metavar="IMAGE",
        help="which images: file names, or numbers from 0 in the set's order",
    )
    parser.add_argument("--count", type=int, default=4, help="how many, evenly spread, without --images")
    args = parser.parse_args(argv)
    if args.count < 1:
        raise UserError(f"--count {args.count}: give 1 or more")
    return args


def _chosen(dataset: Any, args: argparse.Namespace) -> list[int]:
    """Positions of the images that the user names."""
    size = len(dataset)
    if not args.images:
        count = min(args.count, size)
        return [round(i * (size - 1) / max(count - 1, 1)) for i in range(count)]
    known = {str(k): k for k in range(size)}
    for k in range(size):
        path = Path(dataset.get_data_info(k)["img_path"])
        known |= {path.name: k, path.stem: k}
    for word in args.images:
        if word not in known:
            close = difflib.get_close_matches(word, known, n=1)
            advice = (
                f"did you mean {close[0]}?" if close else f"give a file name or a number from 0 to {size - 1}"
            )
            raise UserError(f"--images {word}: the set has no such image; {advice}")
    return [known[word] for word in args.images]


def _segmented(model: Any, dataset: Any, index: int) -> Segmented:
    result = predict(model, dataset[index]).cpu()
    image: Any = cv2.imread(result.img_path, cv2.IMREAD_COLOR)
    truth, given = (
        getattr(result, part).data[0].numpy().astype(np.uint8) for part in ("gt_sem_seg", "pred_sem_seg")
    )
    return Segmented(Path(result.img_path).name, np.ascontiguousarray(image[..., ::-1]), truth, given)


def segmentation_colors(classes: Sequence[str]) -> list[RGB]:
    """ADE20K's own colours and those of the embedded set; bright ones that differ for any other class list.

    Args:
        classes: Names.

    Returns:
        One colour for each class.
    """
    known = {
        tuple(ADE20KDataset.METAINFO["classes"]): ADE20KDataset.METAINFO["palette"],
        CLASSES_ADE20K: PALETTE_ADE20K,
    }
    return class_colors(len(classes), known.get(tuple(classes), ()))


def save_sheet(
    rows: Sequence[Segmented], classes: Sequence[str], colors: Sequence[RGB], out: str | Path
) -> None:
    """Write one picture: a row of four panels for each image, under it the classes that occur.

    Args:
        rows: Images with label maps.
        classes: Names.
        colors: One for each class.
        out: Picture to write; its folder is made.
    """
    width = _GAP + len(TITLES) * (_TILE + _GAP)
    blocks = [_block(one, classes, colors, width) for one in rows]
    sheet = Image.new("RGB", (width, _TOP + sum(b.height for b in blocks)), (255, 255, 255))
    pen = ImageDraw.Draw(sheet)
    for k, title in enumerate(TITLES):
        pen.text((_GAP + k * (_TILE + _GAP), 12), title, font=font(15, bold=True), fill=_INK)
    top = _TOP
    for block in blocks:
        sheet.paste(block, (0, top))
        top += block.height
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    sheet.save(out)


def _block(one: Segmented, classes: Sequence[str], colors: Sequence[RGB], width: int) -> Image.Image:
    """One image: its name and accuracy, four panels, and the legend."""
    found, more = entries(one)
    chips = [(colors[e.label], classes[e.label], _numbers(e)) for e in found]
    drawn = panels(one, colors, _TILE)
    height = drawn[0].shape[0]
    probe = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    places, lines = _flow(probe, chips, width)
    block = Image.new("RGB", (width, _NAME + height + 8 + lines * _LINE + 2 * _GAP), (255, 255, 255))
    pen = ImageDraw.Draw(block)
    pen.text((_GAP, 8), one.name, font=font(13), fill=_INK)
    known = [e.iou for e in found if e.truth]
    mean = f", mean IoU of its classes {100 * sum(known) / len(known):.0f}" if known else ""
    said = f"{100 * one.accuracy:.0f} % of the labelled pixels are right{mean}" + (
        f"; {more} more classes" if more else ""
    )
    pen.text((_GAP + 2 * (_TILE + _GAP), 8), said, font=font(13), fill=_PALE)
    for k, panel in enumerate(drawn):
        block.paste(Image.fromarray(panel), (_GAP + k * (_TILE + _GAP), _NAME))
    for (x, line), (color, name, numbers) in zip(places, chips, strict=True):
        y = _NAME + height + 8 + line * _LINE
        pen.rounded_rectangle((x, y + 2, x + 16, y + 16), radius=3, fill=color)
        pen.text((x + 22, y + 1), name, font=font(13), fill=_INK)
        pen.text((x + 28 + pen.textlength(name, font=font(13)), y + 2), numbers, font=font(12), fill=_PALE)
    return block


def _numbers(entry: Entry) -> str:
    """Share of the truth and IoU; a class that is only predicted has neither."""
    if not entry.truth:
        return "predicted, not there"
    share = f"{100 * entry.truth:.0f} %" if entry.truth >= 0.005 else "< 1 %"
    return f"{share}, IoU {100 * entry.iou:.0f}"


def _flow(pen: Any, chips: Sequence[tuple[RGB, str, str]], width: int) -> tuple[list[tuple[float, int]], int]:
    """Left edge and line of each chip, as words flow in a text, and the number of lines."""
    places, x, line = [], float(_GAP), 0
    for _, name, numbers in chips:
        wide = 28 + pen.textlength(name, font=font(13)) + pen.textlength(numbers, font=font(12)) + 22
        if x > _GAP and x + wide > width - _GAP:
            x, line = float(_GAP), line + 1
        places.append((x, line))
        x += wide
    return places, line + 1
