"""How long training waits for a checkpoint: the suite's writer beside mmengine's own saving.

    python tools/benchmarks/checkpoint_save.py                    # 800 MiB: CMAE ViT-B without its optimizer
    python tools/benchmarks/checkpoint_save.py --mib 20 --rounds 2    # a quick look that it works

Both save the same tensors, in turns. mmengine's call returns when the file is written (not yet on the disk), the
writer's when the tensors are copied. The ratio is the writer's pause over mmengine's. Beside it stand what goes on in
the background, and how long it takes to check the hash before a run resumes.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from mmengine.runner.checkpoint import save_checkpoint, weights_to_cpu

from cmae_mm.cli import guard
from cmae_mm.engine.checkpoint_file import fault_of
from cmae_mm.engine.checkpoint_writer import CheckpointWriter, snapshot

PIECE = 1 << 20  # values of a tensor: 4 MiB


def make_state(mib: int) -> dict:
    """Tensors of so many MiB, as a checkpoint holds them."""
    draw = torch.Generator().manual_seed(0)
    model = torch.nn.ParameterList(torch.randn(PIECE, generator=draw) for _ in range(max(1, mib // 4)))
    weights = model.state_dict()
    return {"meta": {"epoch": 1, "iter": 1}, "state_dict": weights}


def seconds(work: Callable[[], object]) -> float:
    """Wall time of a call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def measure(folder: Path, mib: int, rounds: int) -> dict[str, float]:
    """Save in turns.

    Returns:
        Medians in seconds: ``mmengine``, ``pause``, ``background``, ``check``.
    """
    state, writer = make_state(mib), CheckpointWriter()
    times: dict[str, list[float]] = {name: [] for name in ("mmengine", "pause", "background", "check")}

    def library() -> None:
        save_checkpoint(
            {**state, "state_dict": weights_to_cpu(state["state_dict"])}, str(folder / "library.pth")
        )

    for _ in range(rounds):
        times["mmengine"].append(seconds(library))
        times["pause"].append(seconds(lambda: writer.start(snapshot(state), folder / "iter_1.pth")))
        times["background"].append(seconds(writer.wait))
        times["check"].append(seconds(lambda: fault_of(folder / "iter_1.pth")))
    return {name: statistics.median(some) for name, some in times.items()}


def main() -> int:
    """Print the medians and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mib", type=int, default=800, help="size of the checkpoint (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="each way so often (default: %(default)s)")
    parser.add_argument("--folder", help="where the files go (default: a temporary folder)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        found = measure(Path(folder), args.mib, args.rounds)
    print(f"{args.mib} MiB, {args.rounds} rounds, medians")
    for name, text in (
        ("mmengine", "mmengine: training waits for the file"),
        ("pause", "suite: training waits for the copy"),
        ("background", "suite: then written, hashed and on the disk after"),
        ("check", "suite: hash checked when a run resumes"),
    ):
        print(f"  {text:52s} {found[name]:8.3f} s")
    print(f"ratio of the pauses: {found['pause'] / found['mmengine']:.3f}")
    return 0


if __name__ == "__main__":
    guard(main)
