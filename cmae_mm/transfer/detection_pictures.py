"""``tools/visualize_detections.py``: ground truth beside detections, or beside what training makes of it."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmengine.config import Config
from mmengine.registry import DATASETS
from PIL import Image, ImageDraw
from pycocotools import mask as mask_api

from cmae_mm.data.taxonomy import PALETTE_COCO
from cmae_mm.engine.inference import load_model, picture_config, picture_parser, predict
from cmae_mm.errors import UserError
from cmae_mm.transfer.draw_instances import RGB, Drawn, Picture, class_colors, draw, font

_SCORE, _LEAST = 0.3, 3
_TILE, _GAP, _HEAD = 420, 12, 26
_INK, _PALE = (40, 40, 40), (120, 120, 120)


def detections_main(argv: Sequence[str] | None = None) -> int:
    """Draw chosen images of a detection set.

    Args:
        argv: Words of the command line; those of the process if None.

    Returns:
        Exit code 0.

    Raises:
        UserError: For a wrong path, architecture, image or number.
    """
    args = _arguments(argv)
    cfg = picture_config(args, "val" if args.checkpoint else "train")
    model = load_model(cfg, args.checkpoint) if args.checkpoint else None
    dataset = DATASETS.build(cfg["val_dataloader" if model else "train_dataloader"].dataset)
    classes = tuple(dataset.metainfo["classes"])
    colors = class_colors(len(classes), PALETTE_COCO)
    rows = []
    for k in _chosen(dataset, args):
        truth = dataset.get_data_info(k)
        image = _read(truth["img_path"])
        objects = ground_truth(truth, (image.shape[0], image.shape[1]), classes, colors)
        left = draw(image, objects, _TILE)
        name = f"{Path(truth['img_path']).name} (id {truth['img_id']})"
        if model:
            found = _best(predict(model, dataset[k]).pred_instances, args)
            seen = detections(found, classes, colors)
            right = draw(image, seen, _TILE)
            rows.append((name, f"{_number(objects, 'object')}, {_number(seen, 'detection')}", left, right))
        else:
            sample, seen = _training_sample(dataset, k, cfg, classes, colors)
            rows.append(
                (
                    name,
                    f"{_number(objects, 'object')}, {len(seen)} in the crop",
                    left,
                    draw(sample, seen, _TILE),
                )
            )
    titles = ("ground truth", _title(args)) if model else ("as annotated", "as trained on, with padding")
    save_sheet(rows, titles, args.out)
    print(f"{args.out}: {len(rows)} images: {titles[0]}, {titles[1]}")
    return 0


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = picture_parser(
        "Draw ground truth beside detections; without a checkpoint, beside the sample that training gets."
    )
    parser.add_argument(
        "checkpoint",
        nargs="?",
        help="checkpoint (.pth); without it, training images are drawn, no model is built",
    )
    parser.add_argument(
        "--images", nargs="+", metavar="IMAGE", help="which images: ids of the annotation file, or file names"
    )
    parser.add_argument("--count", type=int, default=6, help="how many, evenly spread, without --images")
    parser.add_argument(
        "--score-thr",
        type=float,
        help=f"least score of a detection (default: {_SCORE}, and at least the {_LEAST} best)",
    )
    parser.add_argument(
        "--most", type=int, default=30, help="most detections in an image (default: %(default)s)"
    )
    args = parser.parse_args(argv)
    if args.score_thr is not None and not 0 <= args.score_thr <= 1:
        raise UserError(f"--score-thr {args.score_thr}: give a number from 0 to 1")
    if args.most < 1 or args.count < 1:
        raise UserError("--most and --count: give 1 or more")
    return args


def _title(args: argparse.Namespace) -> str:
    if args.score_thr is None:
        return f"detections, score {100 * _SCORE:.0f} % or more, else the {_LEAST} best"
    return f"detections, score {100 * args.score_thr:.0f} % or more"


def _number(objects: Sequence[Drawn], what: str) -> str:
    return f"{len(objects)} {what}{'' if len(objects) == 1 else 's'}"


def _chosen(dataset: Any, args: argparse.Namespace) -> list[int]:
    """Positions of the images that the user names by id or file name."""
    if not args.images:
        count = min(args.count, len(dataset))
        return [round(i * (len(dataset) - 1) / max(count - 1, 1)) for i in range(count)]
    known: dict[str, int] = {}
    for k in range(len(dataset)):
        info = dataset.get_data_info(k)
        path = Path(info["img_path"])
        known |= {str(info["img_id"]): k, path.name: k, path.stem: k}
    for word in args.images:
        if word not in known:
            close = difflib.get_close_matches(word, known, n=1)
            advice = (
                f"did you mean {close[0]}?"
                if close
                else f"there are {len(dataset)}, such as {next(iter(known))}"
            )
            raise UserError(f"--images {word}: no image of this data set has that id or file name; {advice}")
    return [known[word] for word in args.images]


def _read(path: str) -> Picture:
    image = cv2.imread(path, cv2.IMREAD_COLOR)
    if image is None:
        raise UserError(f"cannot read the image {path}; copy or download it again")
    return np.ascontiguousarray(image[..., ::-1])


def ground_truth(
    info: dict[str, Any], shape: tuple[int, int], classes: Sequence[str], colors: Sequence[RGB]
) -> list[Drawn]:
    """The annotated objects of an image, before any pipeline.

    Args:
        info: An entry of mmdet's ``CocoDataset``.
        shape: Height and width of the image.
        classes: Names.
        colors: One for each class.

    Returns:
        Objects and crowd regions.
    """
    objects = []
    for one in info["instances"]:
        label, code = one["bbox_label"], one.get("mask")
        if isinstance(code, list):
            code = [p for p in code if len(p) >= 6]
        mask = None
        if code:
            codes = (
                mask_api.frPyObjects(code, *shape)
                if isinstance(code, list) or isinstance(code["counts"], list)
                else code
            )
            mask = mask_api.decode(mask_api.merge(codes) if isinstance(codes, list) else codes).astype(bool)
        objects.append(
            Drawn(classes[label], colors[label], tuple(one["bbox"]), mask, None, bool(one["ignore_flag"]))
        )
    return objects


def detections(found: Any, classes: Sequence[str], colors: Sequence[RGB]) -> list[Drawn]:
    """Predicted or training instances of mmdet as objects to draw.

    Args:
        found: ``InstanceData`` with boxes and labels, perhaps masks and scores, on the CPU.
        classes: Names.
        colors: One for each class.

    Returns:
        As many objects.
    """
    boxes = getattr(found.bboxes, "tensor", found.bboxes)
    masks: Any = getattr(found, "masks", None)
    pixels = masks.to_ndarray() if hasattr(masks, "to_ndarray") else masks
    objects = []
    for k, label in enumerate(found.labels.tolist()):
        mask = None if pixels is None else np.asarray(pixels[k], bool)
        score = float(found.scores[k]) if "scores" in found else None
        objects.append(Drawn(classes[label], colors[label], tuple(boxes[k].tolist()), mask, score))
    return objects


def _best(found: Any, args: argparse.Namespace) -> Any:
    """Detections to show: those above the threshold, best first."""
    found = found.cpu()
    found = found[found.scores.argsort(descending=True)[: args.most]]
    if args.score_thr is not None:
        return found[found.scores >= args.score_thr]
    return found[: max(int((found.scores >= _SCORE).sum()), _LEAST)]


def _training_sample(
    dataset: Any, index: int, cfg: Config, classes: Sequence[str], colors: Sequence[RGB]
) -> tuple[Picture, list[Drawn]]:
    """A sample after the training pipeline, padded with the mean colour as the model does."""
    sample = dataset[index]
    pixels = sample["inputs"].permute(1, 2, 0).numpy()[..., ::-1]
    objects = detections(sample["data_samples"].gt_instances, classes, colors)
    settings = cfg.get("model", {}).get("data_preprocessor", {})
    divisor = settings.get("pad_size_divisor", 1)
    height, width = (-(-n // divisor) * divisor for n in pixels.shape[:2])
    padded = np.empty((height, width, 3), np.uint8)
    padded[:] = np.round(settings.get("mean", (124, 116, 104))).astype(np.uint8)
    padded[: pixels.shape[0], : pixels.shape[1]] = pixels
    grown = []
    for one in objects:
        mask = np.zeros((height, width), bool)
        if one.mask is not None:
            mask[: one.mask.shape[0], : one.mask.shape[1]] = one.mask
        grown.append(Drawn(one.name, one.color, one.box, mask, one.score, one.crowd))
    return padded, grown


def save_sheet(
    rows: Sequence[tuple[str, str, Picture, Picture]], titles: tuple[str, str], out: str | Path
) -> None:
    """Write pairs of pictures, two pairs side by side, under a heading with their titles.

    Args:
        rows: Name, remark, left and right picture (RGB, one width) of each image.
        titles: Of the left and the right pictures.
        out: Picture to write; its folder is made.
    """
    pair, columns = 2 * _TILE + _GAP // 2, min(2, len(rows))
    heights = [max(row[2].shape[0] for row in rows[k : k + columns]) for k in range(0, len(rows), columns)]
    size = (columns * (pair + 2 * _GAP), _HEAD + sum(h + _HEAD + _GAP for h in heights) + _GAP)
    sheet = Image.new("RGB", size, (255, 255, 255))
    pen = ImageDraw.Draw(sheet)
    for column in range(columns):
        for k, title in enumerate(titles):
            x = _GAP + column * (pair + 2 * _GAP) + k * (_TILE + _GAP // 2)
            pen.text((x, 8), title, font=font(14, bold=True), fill=_INK)
    top = _HEAD
    for r, height in enumerate(heights):
        for column, (name, remark, left, right) in enumerate(rows[r * columns : (r + 1) * columns]):
            x = _GAP + column * (pair + 2 * _GAP)
            pen.text((x, top + 7), name, font=font(12), fill=_INK)
            pen.text((x + _TILE + _GAP // 2, top + 7), remark, font=font(12), fill=_PALE)
            sheet.paste(Image.fromarray(left), (x, top + _HEAD))
            sheet.paste(Image.fromarray(right), (x + _TILE + _GAP // 2, top + _HEAD))
        top += height + _HEAD + _GAP
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    sheet.save(out)
