"""Time and memory of the nearest-neighbour probe against DINO's way, on random features.

    python tools/benchmarks/knn.py              # a bank of 64,000 and 2,000 queries: 1 to 2 minutes on a CPU
    python tools/benchmarks/knn.py --full       # ImageNet: 1,281,167 x 50,000 x 768; half an hour or more on a CPU
    python tools/benchmarks/knn.py --full --models ours

Ours votes with 10, 20, 100 and 200 neighbours in one pass over a bank that stays on disk (float32, memory-mapped); of
equally near entries the first count. The baseline does what DINO's program does, written out: the bank in memory,
similarities of 500 queries with all of it, `topk`, a one-hot tensor of the neighbours' classes; here for 200 neighbours
alone, while DINO repeats everything for each number. Each side is a process of its own, with a peak memory of its own;
they measure in turn. Below full size, the time at full size is extrapolated by the number of similarities.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import torch
from _workers import in_turn, report, serve
from torch.nn.functional import normalize

FULL = (1_281_167, 50_000)
CLASSES, TEMPERATURE = 1000, 0.07
MODELS = ("ours", "dino")


def main() -> None:
    """Compare, or be the process of one side."""
    args = parse()
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.serve:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        step = {"ours": ours, "dino": dino}[args.serve](args, device)
        serve(step, args.queries, 1, device, args.clock, warm_up=args.rounds > 1)
        return
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        write(Path(folder), args)
        argv = [*sys.argv[1:], "--made", folder]
        rates, peaks = in_turn(sys.argv[0], args.models, argv, args.rounds)
    where = (
        torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f"CPU, {torch.get_num_threads()} threads"
    )
    print(f"{where}, {args.queries:,} queries, bank {args.bank:,} x {args.width} ({args.clock} time)")
    report(rates, peaks)
    share = FULL[0] * FULL[1] / (args.bank * args.queries)
    for name, values in rates.items():
        seconds = args.queries / statistics.median(values)
        note = (
            ""
            if args.full
            else f"; extrapolated to {FULL[0]:,} x {FULL[1]:,}: {seconds * share / 60:.0f} min"
        )
        print(f"{name:8s} {seconds:.1f} s{note}")


def parse() -> argparse.Namespace:
    """Words of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bank", type=int, default=64_000)
    parser.add_argument("--queries", type=int, default=2_000)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--full", action="store_true", help="ImageNet's numbers of images, one round")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS, help="ours first")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, help="CPU threads; default: torch's choice")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--folder", help="where the bank is written (default: the system's temporary folder)")
    parser.add_argument("--made", help=argparse.SUPPRESS)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.full:
        (args.bank, args.queries), args.rounds = FULL, 1
    return args


def write(folder: Path, args: argparse.Namespace) -> None:
    """Draw features around 1,000 centres, ordered by class as ImageNet's are."""
    draws = np.random.default_rng(0)
    centres = draws.standard_normal((CLASSES, args.width), np.float32)
    for name, count in (("bank", args.bank), ("queries", args.queries)):
        labels = np.sort(draws.integers(0, CLASSES, count))
        np.save(folder / f"{name}_labels.npy", labels)
        shape = (count, args.width)
        out = np.lib.format.open_memmap(folder / f"{name}.npy", mode="w+", dtype=np.float32, shape=shape)
        for start in range(0, count, 20_000):
            some = labels[start : start + 20_000]
            noise = draws.standard_normal((len(some), args.width), np.float32)
            out[start : start + 20_000] = centres[some] + 2 * noise


def ours(args: argparse.Namespace, device: torch.device) -> Callable[[], object]:
    """What tools/probe.py runs after features are extracted."""
    from cmae_mm.transfer.feature_table import FeatureTable
    from cmae_mm.transfer.knn_probe import KNNProbe
    from cmae_mm.transfer.probe_task import Task

    def table(name: str) -> FeatureTable:
        part = np.load(os.path.join(args.made, f"{name}.npy"), mmap_mode="r")
        return FeatureTable([[part]], np.load(os.path.join(args.made, f"{name}_labels.npy")), CLASSES)

    task = Task(table("bank"), table("queries"), device, 0, Path(args.made), lambda text: None)
    return lambda: KNNProbe().run(task)


def dino(args: argparse.Namespace, device: torch.device, k: int = 200) -> Callable[[], object]:
    """The plain way."""

    def read(name: str) -> torch.Tensor:
        return normalize(torch.from_numpy(np.load(os.path.join(args.made, f"{name}.npy"))).to(device), dim=1)

    bank, queries = read("bank").t().contiguous(), read("queries")
    labels = torch.from_numpy(np.load(os.path.join(args.made, "bank_labels.npy"))).to(device)

    def step() -> torch.Tensor:
        predicted = []
        for some in queries.split(500):
            similarity, place = (some @ bank).topk(k, largest=True, sorted=True)
            classes = torch.zeros(len(some) * k, CLASSES, device=device)
            classes.scatter_(1, labels[place].view(-1, 1), 1)
            weights = (similarity / TEMPERATURE).exp()
            votes = (classes.view(len(some), k, CLASSES) * weights[:, :, None]).sum(dim=1)
            predicted.append(votes.argmax(dim=1))
        return torch.cat(predicted)

    return step


if __name__ == "__main__":
    main()
