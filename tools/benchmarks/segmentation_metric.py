"""Time of the segmentation metric against mmseg's, on random label maps.

    python tools/benchmarks/segmentation_metric.py [--images 20] [--rounds 5] [--classes 150]

Rounds alternate; processor time on a CPU, so that other work on the machine disturbs little.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import cmae_mm.compat  # noqa: F401  (before torchvision)

# isort: split

import torch
from mmseg.evaluation import IoUMetric

from cmae_mm.transfer.segmentation_metric import CMAESegMetric


def main() -> None:
    """Time three metrics in turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--classes", type=int, default=150)
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    clock: Callable[[], float] = time.perf_counter if device == "cuda" else time.process_time
    torch.manual_seed(0)
    coarse = torch.rand(args.images, args.classes, 16, 21, device=device)
    samples = []
    for one in coarse:  # 512 x 683: the usual size of an ADE20K image
        true = torch.nn.functional.interpolate(one[None], (512, 683), mode="bilinear").argmax(1)
        samples.append({"gt_sem_seg": {"data": true}, "pred_sem_seg": {"data": true.roll(5, 2)}})
    metrics = {
        "mmseg IoUMetric": IoUMetric(),
        "ours without boundaries": CMAESegMetric(dilation_ratio=None),
        "ours": CMAESegMetric(),
    }
    times: dict[str, list[float]] = {name: [] for name in metrics}
    for i in range(args.rounds + 1):
        for name, metric in metrics.items():
            metric.dataset_meta = {"classes": tuple(map(str, range(args.classes)))}
            start = clock()
            for sample in samples:
                metric.process({}, [sample])
            metric.evaluate(len(samples))
            if i:
                times[name].append(clock() - start)
    print(
        f"{device}, {torch.get_num_threads()} threads, {args.images} images of 512 x 683, {args.rounds} rounds"
    )
    baseline = statistics.median(times["mmseg IoUMetric"])
    for name, values in times.items():
        middle = statistics.median(values)
        print(f"  {name:24s} {1000 * middle / args.images:8.2f} ms/image   {baseline / middle:5.2f} x mmseg")


if __name__ == "__main__":
    main()
