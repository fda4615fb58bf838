"""Label maps beside images, drawn by mmseg's visualizer (detections: ``detection_pictures.py``)."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmseg.visualization import SegLocalVisualizer

from cmae_mm.data.taxonomy import PALETTE_ADE20K
from cmae_mm.engine.inference import picture_arguments, predict, prepare

_TILE = 384  # width in pixels that an image is drawn at: small images are enlarged for legible labels


def segmentations_main(argv: Sequence[str] | None = None) -> int:
    """Draw label maps: ``tools/visualize_segmentation.py``.

    Args:
        argv: Words of the command line; those of the process if None.

    Returns:
        Exit code 0.
    """
    args = picture_arguments(
        "Draw image and ground truth (left) beside the predicted label map (right).", argv
    )
    classes, model, samples = prepare(args, "val")
    visualizer = SegLocalVisualizer(name="segmentations", alpha=0.75)
    visualizer.dataset_meta = {"classes": classes, "palette": _palette(PALETTE_ADE20K, len(classes))}
    columns = "image, ground truth, prediction"
    return _draw(
        args.out,
        visualizer,
        [predict(model, s) for s in samples],
        columns,
        with_labels=False,
        with_image=True,
    )


def _palette(known: Sequence[Sequence[int]], count: int) -> list[tuple[int, ...]]:
    """The suite's palette where it is long enough, else fixed random colours."""
    if len(known) >= count:
        return [tuple(colour) for colour in known[:count]]
    drawn = np.random.default_rng(0).integers(30, 230, (count, 3)).tolist()
    return [tuple(colour) for colour in drawn]


def _draw(out: str, visualizer: Any, results: Sequence[Any], columns: str, **options: Any) -> int:
    tiles = []
    with tempfile.TemporaryDirectory() as folder:
        drawn = str(Path(folder) / "drawn.png")  # the one output that both visualizers have
        for result in results:
            image = cv2.cvtColor(cv2.imread(result.img_path), cv2.COLOR_BGR2RGB)
            visualizer.add_datasample("picture", image, result.cpu(), out_file=drawn, **options)
            tiles.append(_fit(cv2.cvtColor(cv2.imread(drawn), cv2.COLOR_BGR2RGB), 2 * _TILE))
    save_tiles(tiles, out, columns=2)
    print(f"{out}: {len(tiles)} images: {columns}")
    return 0


def _fit(image: np.ndarray, width: int) -> np.ndarray:
    height = round(image.shape[0] * width / image.shape[1])
    mode = cv2.INTER_NEAREST if width > image.shape[1] else cv2.INTER_AREA
    return cv2.resize(image, (width, height), interpolation=mode)


def save_tiles(tiles: Sequence[np.ndarray], out: str | Path, columns: int, gap: int = 6) -> None:
    """Write RGB pictures as one sheet.

    Args:
        tiles: (H, W, 3) uint8 RGB pictures of one width; rows are as high as their highest tile.
        out: PNG to write; its folder is made.
        columns: Tiles in a row.
        gap: White pixels between tiles.
    """
    rows = []
    for start in range(0, len(tiles), columns):
        row = list(tiles[start : start + columns])
        height = max(t.shape[0] for t in row)
        row += [np.full_like(row[0], 255)] * (columns - len(row))
        padded = [
            cv2.copyMakeBorder(t, 0, height + gap - t.shape[0], 0, gap, cv2.BORDER_CONSTANT, value=(255,) * 3)
            for t in row
        ]
        rows.append(np.concatenate(padded, axis=1))
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(out), cv2.cvtColor(np.concatenate(rows, axis=0), cv2.COLOR_RGB2BGR))
