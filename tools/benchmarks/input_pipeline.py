"""How many images a second does one core bring from JPEG files to the device's doorstep?

    python tools/benchmarks/input_pipeline.py                      # on rendered images of 500 x 375 pixels
    python tools/benchmarks/input_pipeline.py --images DIR         # on photographs
    python tools/benchmarks/input_pipeline.py --images DIR --decoders

Ours: `MasterImages`, one uint8 crop of 256 pixels; flip, views, colours and normalisation are left to the device.
Baseline: the two-view pipeline of the official CMAE recipe, which does all of it on the CPU, put together here from the
same operations of Pillow, mmcv and mmpretrain. Both run in this one process with one thread, in turn, on the same
files, so that whatever else the machine does hits both alike; the ratio is the median over the rounds.
"""

from __future__ import annotations

import argparse
import io
import random
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image, ImageOps

import cmae_mm.compat
from cmae_mm.cli import guard
from cmae_mm.data.decode import decode_bgr
from cmae_mm.data.masters import MasterImages
from cmae_mm.data.mini import picture_rng
from cmae_mm.data.scene import coco_scene

MASTER, VIEW, MAX_SHIFT = 256, 224, 31
CELL, COLUMNS, ROWS = 125, 4, 3  # 500 x 375
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


class TwoViews:
    """The official recipe: one crop and flip for both views, a window for each, colours for one, normalisation."""

    def __init__(self) -> None:
        cmae_mm.compat.import_quietly()
        from mmcv.transforms import Normalize, RandomFlip, RandomGrayscale
        from mmpretrain.datasets.transforms import ColorJitter, GaussianBlur, RandomResizedCrop

        warnings.filterwarnings("ignore", "Only use 'alpha'")  # mmcv, of the jitter's contrast
        self.crop = RandomResizedCrop(
            MASTER, crop_ratio_range=(0.2, 1.0), backend="pillow", interpolation="bicubic"
        )
        self.flip = RandomFlip(prob=0.5)
        self.jitter = ColorJitter(0.4, 0.4, 0.4, 0.1, backend="pillow")
        self.gray = RandomGrayscale(0.2, keep_channels=True, channel_weights=(0.114, 0.587, 0.2989))
        self.blur = GaussianBlur(magnitude_range=(0.1, 2.0), magnitude_std="inf", prob=0.5)
        self.normalize = Normalize((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))

    def __call__(self, path: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Read a file and make both views, (3, 224, 224) float32 each."""
        with Image.open(path) as file:
            pixels = np.array(ImageOps.exif_transpose(file).convert("RGB"))
        master = self.flip(self.crop({"img": pixels}))["img"]
        top, left = random.randint(0, MAX_SHIFT), random.randint(0, MAX_SHIFT)
        target = {"img": master[top : top + VIEW, left : left + VIEW].copy()}
        if random.random() < 0.8:
            target = self.jitter(target)
        target = self.blur(self.gray(target))
        return self._tensor({"img": master[:VIEW, :VIEW]}), self._tensor(target)

    def _tensor(self, view: dict[str, np.ndarray]) -> torch.Tensor:
        pixels = self.normalize(view)["img"]
        return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def render_images(folder: Path, count: int) -> None:
    """Write JPEG files of 500 x 375 pixels, each a sheet of twelve rendered scenes.

    Args:
        folder: Where to.
        count: How many.
    """
    number = COLUMNS * ROWS
    scenes = [coco_scene(picture_rng(0, "coco_train", i))[0] for i in range(2 * number)]
    cells = [np.asarray(Image.fromarray(scene).resize((CELL, CELL))) for scene in scenes]
    rng = np.random.default_rng(0)
    for i in range(count):
        chosen = [cells[k] for k in rng.choice(len(cells), number, replace=False)]
        rows = [np.concatenate(chosen[r * COLUMNS : (r + 1) * COLUMNS], axis=1) for r in range(ROWS)]
        Image.fromarray(np.concatenate(rows)).save(folder / f"{i:05d}.jpg", quality=90)


def measure(
    sides: dict[str, Callable[[int, int], object]], count: int, rounds: int, clock: str
) -> dict[str, list[float]]:
    """Time all sides in turn.

    Args:
        sides: Name to a function of round and number of the image.
        count: Images in a round.
        rounds: Measurements of each, after one that warms up.
        clock: A key of `CLOCKS`.

    Returns:
        Images/s of each round.
    """
    rates: dict[str, list[float]] = {name: [] for name in sides}
    now = CLOCKS[clock]
    for turn in range(rounds + 1):
        for name, work in sides.items():
            start = now()
            for i in range(count if turn else min(count, 10)):
                work(turn, i)
            if turn:
                rates[name].append(count / (now() - start))
    return rates


def report(rates: dict[str, list[float]], ours: str) -> None:
    """Print the rate of each side and the ratio of ours to each other one."""
    for name, values in rates.items():
        print(
            f"{name:22s} {statistics.median(values):8.1f} images/s ({min(values):.1f} to {max(values):.1f})"
        )
    for name in [name for name in rates if name != ours]:
        ratios = [a / b for a, b in zip(rates[ours], rates[name], strict=True)]
        print(f"{ours} / {name}: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


def decoders(contents: list[bytes]) -> dict[str, Callable[[int, int], object]]:
    """What turns the bytes of file i into pixels: ours, OpenCV and Pillow.

    Args:
        contents: The files.
    """
    return {
        "ours": lambda turn, i: decode_bgr(contents[i]),
        "OpenCV": lambda turn, i: cv2.imdecode(np.frombuffer(contents[i], np.uint8), cv2.IMREAD_COLOR),
        "Pillow": lambda turn, i: np.asarray(Image.open(io.BytesIO(contents[i])).convert("RGB")),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print.

    Args:
        argv: Words of the command line; those of the process if None.

    Returns:
        Exit code 0.

    Raises:
        UserError: The folder has no images.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, metavar="DIR", help="folder of photographs; default: rendered")
    parser.add_argument("--count", type=int, default=200, help="images in one measurement, at most")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each side, in turn")
    parser.add_argument("--decoders", action="store_true", help="also compare the decoders alone")
    parser.add_argument(
        "--clock",
        choices=CLOCKS,
        default="wall",
        help="cpu: processor time, steadier where other programs run",
    )
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    with ExitStack() as stack:
        folder = args.images or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        if args.images is None:
            render_images(folder, min(args.count, 50))
        data = MasterImages(folder, split="", size=MASTER)
        count, two_views = min(args.count, len(data)), TwoViews()
        contents = [data.source.read(i) for i in range(count)]
        height, width = np.median([decode_bgr(content).shape[:2] for content in contents], axis=0)
        size = np.mean([len(content) for content in contents]) / 1000
        print(
            f"{count} {'photographs' if args.images else 'rendered images'}, median {width:.0f} x {height:.0f}, mean "
            f"{size:.0f} kB; one thread, {args.clock} time, {args.rounds} rounds"
        )
        sides: dict[str, Callable[[int, int], object]] = {
            "uint8 master": lambda turn, i: data[turn * len(data) + i],
            "two views on the CPU": lambda turn, i: two_views(data.name(i)),
        }
        report(measure(sides, count, args.rounds, args.clock), "uint8 master")
        if args.decoders:
            print("decoding alone:")
            report(measure(decoders(contents), count, args.rounds, args.clock), "ours")
    return 0


if __name__ == "__main__":
    guard(main)
