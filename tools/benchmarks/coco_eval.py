"""Seconds that COCO evaluation takes: ours against pycocotools through mmdet's `CocoMetric`, boxes and masks.

    python tools/benchmarks/coco_eval.py                  # 5,000 images as in val2017: some minutes
    python tools/benchmarks/coco_eval.py --images 500     # a quick look

Ground truth and predictions are drawn at random: objects of all sizes in 80 classes (7 an image, 1 in 50 of them a
crowd), and about 44 detections an image, some near an object and some not. Both sides take the same tensors, masks as
the model gives them (one boolean image each). The clock runs from there to the twelve numbers, so encoding of masks,
conversion and matching count; drawing the masks does not. `process` is called in turn for each image, so whatever
else the machine does hits both alike. The twelve numbers of both sides must agree, or the program fails.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import cv2
import numpy as np
import torch

import cmae_mm.compat
from cmae_mm.cli import guard
from cmae_mm.errors import UserError

HEIGHT, WIDTH, CLASSES = 480, 640, 80
CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}


def draw_object(rng: np.random.Generator) -> np.ndarray:
    """A star-shaped outline.

    Args:
        rng: Generator.

    Returns:
        (24, 2) x, y in pixels, inside the image.
    """
    radius = np.exp(rng.uniform(np.log(6), np.log(160)))
    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    centre = rng.uniform(0.1, 0.9, 2) * (WIDTH, HEIGHT)
    distance = radius * rng.uniform(0.7, 1.3, 24)
    points = centre + distance[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return points.clip(0, (WIDTH - 1, HEIGHT - 1))


def fill(points: np.ndarray) -> np.ndarray:
    """The pixels of an outline, (HEIGHT, WIDTH) of 0 and 1."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.fillPoly(mask, [points.round().astype(np.int32)], 1)
    return mask


def ground_truth(
    images: int, rng: np.random.Generator
) -> tuple[dict[str, Any], list[list[tuple[np.ndarray, int]]]]:
    """An annotation file and the outlines with labels behind it.

    Args:
        images: How many.
        rng: Generator.

    Returns:
        COCO's dictionary, and for each image its objects.
    """
    from pycocotools import mask as mask_api

    rows, objects = [], []
    for image in range(images):
        objects.append([(draw_object(rng), int(rng.integers(CLASSES))) for _ in range(rng.poisson(7))])
        for points, label in objects[-1]:
            crowd = int(rng.random() < 0.02)
            code = mask_api.encode(np.asfortranarray(fill(points)))
            low, high = points.min(axis=0), points.max(axis=0)
            row = {"id": len(rows) + 1, "image_id": image + 1, "category_id": label + 1, "iscrowd": crowd}
            row |= {"bbox": [*low.tolist(), *(high - low).tolist()], "area": float(mask_api.area(code))}
            segmentation = {**code, "counts": code["counts"].decode()} if crowd else [points.ravel().tolist()]
            rows.append({**row, "segmentation": segmentation})
    whole = {
        "images": [
            {"id": i + 1, "width": WIDTH, "height": HEIGHT, "file_name": f"{i}.jpg"} for i in range(images)
        ],
        "annotations": rows,
        "categories": [{"id": k + 1, "name": f"class {k}"} for k in range(CLASSES)],
    }
    return whole, objects


def predict(objects: list[tuple[np.ndarray, int]], rng: np.random.Generator) -> dict[str, torch.Tensor]:
    """Detections of one image: two near each object, the rest anywhere.

    Args:
        objects: Outlines and labels of the ground truth.
        rng: Generator.

    Returns:
        bboxes, scores, labels and boolean masks, as a detector gives them.
    """
    outlines, labels, scores = [], [], []
    for points, label in objects:
        for spread in (0.03, 0.15):
            size = np.ptp(points, axis=0).mean()
            outlines.append((points + rng.normal(0, spread * size, (1, 2))).clip(0, (WIDTH - 1, HEIGHT - 1)))
            labels.append(label if rng.random() < 0.85 else int(rng.integers(CLASSES)))
            scores.append(rng.beta(4, 2))
    while len(outlines) < 44:
        outlines.append(draw_object(rng))
        labels.append(int(rng.integers(CLASSES)))
        scores.append(rng.beta(1, 5))
    boxes = np.array([[*p.min(axis=0), *p.max(axis=0)] for p in outlines], np.float32)
    masks = np.stack([fill(p) for p in outlines]).astype(bool)
    return {
        "bboxes": torch.from_numpy(boxes),
        "scores": torch.tensor(scores, dtype=torch.float32),
        "labels": torch.tensor(labels),
        "masks": torch.from_numpy(masks),
    }


@contextlib.contextmanager
def kept_stats() -> Iterator[list[np.ndarray]]:
    """Keep the unrounded numbers of mmdet's metric, which rounds what it returns."""
    from mmdet.evaluation.metrics import coco_metric

    kept: list[np.ndarray] = []

    class Keeping(coco_metric.COCOeval):
        def summarize(self) -> None:
            super().summarize()
            kept.append(np.asarray(self.stats))

    with mock.patch.object(coco_metric, "COCOeval", Keeping):
        yield kept


class Side:
    """A metric with the time spent in it.

    Args:
        metric: mmdet's or ours.
        kind: bbox or segm.
        classes: Names.
    """

    def __init__(self, metric: Any, kind: str, classes: tuple[str, ...]) -> None:
        self.metric, self.kind = metric, kind
        self.spent = dict.fromkeys(CLOCKS, 0.0)
        metric.dataset_meta = {"classes": classes}

    def timed(self, work: Callable[[], Any]) -> Any:
        """Run something on the clocks."""
        start = {name: now() for name, now in CLOCKS.items()}
        result = work()
        for name, now in CLOCKS.items():
            self.spent[name] += now() - start[name]
        return result

    def process(self, image: int, found: dict[str, torch.Tensor]) -> None:
        """Give it the detections of an image; boxes alone where it wants boxes."""
        visible = found if self.kind == "segm" else {k: v for k, v in found.items() if k != "masks"}
        sample = {"img_id": image, "ori_shape": (HEIGHT, WIDTH), "pred_instances": visible}
        self.timed(lambda: self.metric.process({}, [sample]))


def measure(images: int, seed: int) -> dict[tuple[str, str], tuple[Side, np.ndarray]]:
    """Evaluate with all four.

    Args:
        images: How many.
        seed: Of all draws.

    Returns:
        (bbox or segm, ours or pycocotools) to the side and its twelve numbers.
    """
    from mmdet.evaluation import CocoMetric

    from cmae_mm.transfer.coco_metric import CMAECocoMetric

    rng = np.random.default_rng(seed)
    whole, objects = ground_truth(images, rng)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        file = Path(folder) / "instances.json"
        file.write_text(json.dumps(whole))
        classes = tuple(c["name"] for c in whole["categories"])
        sides = {}
        for kind in ("bbox", "segm"):
            for name, build in (("ours", CMAECocoMetric), ("pycocotools", CocoMetric)):
                metric = build(ann_file=str(file), metric=kind, proposal_nums=(1, 10, 100))
                sides[kind, name] = Side(metric, kind, classes)
        for k in range(images):
            found = predict(objects[k], rng)
            for side in sides.values():
                side.process(k + 1, found)
        results = {}
        for key, side in sides.items():
            with kept_stats() as stats:
                values = side.timed(lambda side=side: side.metric.evaluate(images))
            twelve = stats[0] if stats else [v for v in values.values() if isinstance(v, float)]
            results[key] = (side, np.asarray(twelve))
    return results


def main() -> int:
    """Measure, compare, print.

    Returns:
        Exit code 0.

    Raises:
        UserError: If the twelve numbers of the two sides differ.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    cmae_mm.compat.import_quietly()
    results = measure(args.images, args.seed)
    print(
        f"{args.images} images of {WIDTH} x {HEIGHT}, 44 detections each or more; seconds to the twelve numbers"
    )
    for kind in ("bbox", "segm"):
        (ours, a), (theirs, b) = results[kind, "ours"], results[kind, "pycocotools"]
        if np.abs(a - b).max() > 1e-12:
            raise UserError(f"{kind}: the numbers differ: {a.tolist()} and {b.tolist()}")
        for clock in CLOCKS:
            x, y = ours.spent[clock], theirs.spent[clock]
            print(f"  {kind}, {clock:9s} time: ours {x:7.2f} s, pycocotools {y:7.2f} s, ratio {y / x:.2f}")
        print(
            f"  {kind}: equal AP {a[0]:.6f} and all twelve numbers (largest difference {np.abs(a - b).max():.1e})"
        )
    return 0


if __name__ == "__main__":
    guard(main)
