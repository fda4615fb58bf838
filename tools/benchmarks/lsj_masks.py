"""Memory and time of a large-scale-jitter sample with masks as polygons, against mmdet's default, bitmaps.

    python tools/benchmarks/lsj_masks.py                               # on rendered images
    python tools/benchmarks/lsj_masks.py --data-root DIR --count 200   # on COCO: DIR/train2017, DIR/annotations

Both sides are the pipeline of `configs/_base_/datasets/coco_lsj.py` (1024 px, zoom 0.1 to 2.0); the baseline differs in
one step, `LoadAnnotations(with_mask=True)`, which draws each object into a bitmap of the whole image before the zoom.
Samples are drawn in turn with the same random numbers. Peak memory is what Python and NumPy allocate while a sample is
made, the image included (tracemalloc); what is sent is the pickled annotations that a loader process hands over.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import pickle
import statistics
import tempfile
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np

import cmae_mm.compat
from cmae_mm.cli import guard

CONFIG = Path(__file__).parents[2] / "configs" / "_base_" / "datasets" / "coco_lsj.py"
NAMES = ("polygons", "bitmaps")


def build(root: Path, name: str) -> Any:
    """The training set with one kind of mask.

    Args:
        root: Data root in COCO's layout.
        name: One of `NAMES`.

    Returns:
        mmdet's dataset.
    """
    from mmdet.datasets import CocoDataset
    from mmdet.datasets.transforms import LoadAnnotations
    from mmengine.registry import init_default_scope

    from cmae_mm.engine.config import load_config

    init_default_scope("mmdet")
    steps = load_config(CONFIG).train_pipeline
    if name == "bitmaps":
        steps[1] = dict(type=LoadAnnotations, with_bbox=True, with_mask=True)
    file = root / "annotations" / "instances_train2017.json"
    classes = tuple(c["name"] for c in json.loads(file.read_bytes())["categories"])
    return CocoDataset(
        ann_file=str(file),
        data_prefix=dict(img=str(root / "train2017")),
        metainfo=dict(classes=classes),
        filter_cfg=dict(filter_empty_gt=True),
        pipeline=steps,
    )


def sample(dataset: Any, index: int, measure_memory: bool) -> tuple[float, float]:
    """Make one sample.

    Args:
        dataset: See :func:`build`.
        index: Number of the image, and seed of its draws.
        measure_memory: Measure memory, which slows it down, instead of time.

    Returns:
        Peak and size of the sample in MB; or processor seconds and 0.
    """
    np.random.seed(index)
    if not measure_memory:
        start = time.process_time()
        dataset[index]
        return time.process_time() - start, 0.0
    tracemalloc.start()
    made = dataset[index]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 1e6, len(pickle.dumps(made["data_samples"])) / 1e6


def compare(root: Path, count: int) -> None:
    """Measure both sides and print a line for each, and the ratios.

    Args:
        root: Data root.
        count: Images, evenly spread.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        sides = {name: build(root, name) for name in NAMES}
    size = len(sides["polygons"])
    chosen = sorted({round(i * (size - 1) / max(count - 1, 1)) for i in range(min(count, size))})
    figures: dict[str, list[tuple[float, float, float]]] = {name: [] for name in NAMES}
    for index in chosen:
        for name, dataset in sides.items():
            peak, sent = sample(dataset, index, True)
            figures[name].append((peak, sent, sample(dataset, index, False)[0]))
    print(f"{len(chosen)} images of {root}, LSJ at 1024 px")
    for name, rows in figures.items():
        peaks, sent, seconds = zip(*rows, strict=True)
        print(
            f"  {name}: peak {statistics.mean(peaks):6.1f} MB on average, {max(peaks):7.1f} MB at most; "
            f"annotations sent {1e3 * statistics.mean(sent):6.0f} kB, {1e3 * max(sent):6.0f} at most; "
            f"{1e3 * statistics.mean(seconds):5.0f} ms a sample"
        )
    means = {name: np.mean(rows, axis=0) for name, rows in figures.items()}
    most = {name: max(row[0] for row in rows) for name, rows in figures.items()}
    peak, sent, seconds = means["bitmaps"] / means["polygons"]
    print(
        f"  bitmaps over polygons: peak x{peak:.1f} (largest sample x{most['bitmaps'] / most['polygons']:.1f}), "
        f"sent x{sent:.0f}, time x{seconds:.2f}"
    )


def main() -> int:
    """Parse and compare.

    Returns:
        Exit code 0.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--count", type=int, default=40)
    args = parser.parse_args()
    cmae_mm.compat.import_quietly()
    if args.data_root:
        compare(args.data_root, args.count)
        return 0
    from cmae_mm.data.mini import MiniSizes, make_mini

    with tempfile.TemporaryDirectory() as folder:
        make_mini(Path(folder) / "mini", workers=1, sizes=MiniSizes(1, 1, args.count, 1, 1, 1))
        compare(Path(folder) / "mini" / "coco", args.count)
    return 0


if __name__ == "__main__":
    guard(main)
