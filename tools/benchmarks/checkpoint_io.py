"""Seconds, MB/s and peak memory of reading, importing and writing checkpoints, beside the plain library calls.

    python tools/benchmarks/checkpoint_io.py                 # a ViT-L, 1.2 GB of float32
    python tools/benchmarks/checkpoint_io.py --arch tiny     # a quick look that it works

Each measurement is a process of its own with one thread, in turns, so that whatever else the machine does hits all
alike. Files lie in the page cache: the disk plays no part in reading (``--folder /dev/shm``: nor in writing). Peak
memory is what a process grows by during the work (resident, its highest point), as a multiple of the file.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from cmae_mm.checkpoints import BackboneHeader, load_backbone, save_backbone
from cmae_mm.checkpoints.backbone_file import expected_keys, expected_shape
from cmae_mm.checkpoints.importing import import_checkpoint
from cmae_mm.checkpoints.safe_load import load_checkpoint
from cmae_mm.checkpoints.sources.openmmlab import timm_name
from cmae_mm.checkpoints.targets.writing import convert, write
from cmae_mm.cli import guard
from cmae_mm.errors import UserError

ARCHS = {  # width, depth, heads, hidden
    "tiny": (192, 4, 3, 768),
    "base": (768, 12, 12, 3072),
    "large": (1024, 24, 16, 4096),
}
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")

# Ours, and the plain calls beside it: what each of them has in memory before the clock starts, and what it does.
PAIRS = {
    "load_checkpoint": "torch.load",
    "load, rename, save_backbone": "torch.load + save_file",
    "import_checkpoint": "torch.load + save_file",
    "export to timm": "load_file + save_file",
    "export to mmpretrain": "load_file + torch.save",
    "save_backbone": "save_file",
    "load_backbone": "load_file",
}


def header_of(arch: str) -> BackboneHeader:
    """Header of a ViT of 224 pixels and patches of 16."""
    width, depth, heads, hidden = ARCHS[arch]
    return BackboneHeader("benchmark", width, depth, heads, hidden, patch=16, image_size=224)


def make_files(folder: Path, arch: str) -> None:
    """Write the same random encoder as ``x.pth`` and ``x.safetensors``.

    Args:
        folder: Where to.
        arch: A key of `ARCHS`.
    """
    header = header_of(arch)
    draw = torch.Generator().manual_seed(0)
    shapes = {key: expected_shape(key, header) for key in sorted(expected_keys(header))}
    state = {key: torch.randn(shape, generator=draw) for key, shape in shapes.items()}
    torch.save(state, folder / "x.pth")
    save_backbone(folder / "x.safetensors", state, header)


def work(name: str, folder: Path, arch: str) -> Callable[[], object]:
    """Prepare one measurement.

    Args:
        name: A key or value of `PAIRS`.
        folder: What `make_files` filled.
        arch: As there.

    Returns:
        What is timed; the result is kept, as a user would.
    """
    checkpoint, backbone, out = folder / "x.pth", folder / "x.safetensors", folder / "out"
    header = header_of(arch)

    def plain_load() -> object:
        return torch.load(checkpoint, map_location="cpu", weights_only=True)

    if name in ("save_backbone", "save_file"):
        # From a .pth: tensors of a safetensors file would still be that file.
        state = plain_load()
        return {
            "save_backbone": lambda: save_backbone(out, state, header),
            "save_file": lambda: save_file(state, out),
        }[name]

    def export(to: str, target: Path) -> None:
        state, header = load_backbone(backbone)
        write(convert(state, header, to), header, to, target)

    return {
        "export to timm": lambda: export("timm", out.with_suffix(".safetensors")),
        "export to mmpretrain": lambda: export("mmpretrain", out),
        "load_file + save_file": lambda: save_file(load_file(backbone), out),
        "load_file + torch.save": lambda: torch.save(load_file(backbone), out),
        "torch.load": plain_load,
        "load_checkpoint": lambda: load_checkpoint(checkpoint),
        "torch.load + save_file": lambda: save_file(plain_load(), out),
        "load, rename, save_backbone": lambda: save_backbone(
            out, renamed(load_checkpoint(checkpoint)), header
        ),
        "import_checkpoint": lambda: import_checkpoint(checkpoint, out, source="dino", heads=header.heads),
        "load_file": lambda: touched(load_file(backbone)),
        "load_backbone": lambda: touched(load_backbone(backbone)[0]),
    }[name]


def renamed(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Every key with mmpretrain's rules, under which timm's names stay."""
    return {timm_name(key): value for key, value in state.items()}


def touched(state: dict[str, torch.Tensor]) -> float:
    """Read a number of every page of 4 kB: a file that is only mapped has not been read yet."""
    return sum(float(value.flatten()[::1024].sum()) for value in state.values())


def kilobytes(field: str) -> int:
    """A field of the process's memory, such as its highest resident size since it was cleared."""
    return next(int(line.split()[1]) for line in STATUS.read_text().splitlines() if line.startswith(field))


def measure(name: str, folder: Path, arch: str, clock: str = "wall") -> dict[str, float]:
    """Run one measurement in this process.

    Args:
        name: A key or value of `PAIRS`.
        folder: What `make_files` filled.
        arch: As there.
        clock: ``"wall"``, or ``"cpu"``: processor time, which is steady on a machine that does other work.

    Returns:
        ``seconds``, and ``megabytes`` that the process grew by at its highest point.
    """
    torch.set_num_threads(1)  # on a busy machine a thread that waits for another costs more than it brings
    task = work(name, folder, arch)
    CLEAR.write_text("5")  # the highest point starts anew
    now = {"wall": time.perf_counter, "cpu": time.process_time}[clock]
    before, start = kilobytes("VmRSS"), now()
    kept = task()
    seconds = now() - start
    del kept
    for written in ("out", "out.safetensors"):
        (folder / written).unlink(missing_ok=True)
    return {"seconds": seconds, "megabytes": (kilobytes("VmHWM") - before) * 1024 / 1e6}


def child(*words: str) -> str:
    """Run this program again and return what it prints."""
    done = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"the measurement {words} failed: {done.stderr.strip().splitlines()[-1]}")
    return done.stdout


def compare(folder: Path, arch: str, rounds: int, clock: str = "wall") -> None:
    """Measure all in turns and print the table.

    Args:
        folder: What `make_files` filled.
        arch: As there.
        rounds: Measurements of each; the median is printed.
        clock: See `measure`.
    """
    megabytes = (folder / "x.safetensors").stat().st_size / 1e6
    names = list(dict.fromkeys(name for pair in PAIRS.items() for name in pair))
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    words = ("--folder", str(folder), "--arch", arch, "--clock", clock)
    for _ in range(rounds):
        for name in names:
            found[name].append(json.loads(child("--measure", name, *words)))
    print(f"file of {megabytes:.1f} MB, {rounds} rounds, one process and thread each")
    seconds = {n: statistics.median(f["seconds"] for f in found[n]) for n in names}
    for ours, plain in PAIRS.items():
        for name in (ours, plain):
            peak = max(f["megabytes"] for f in found[name]) / megabytes
            speed = megabytes / seconds[name]
            print(f"  {name:27s} {seconds[name]:8.3f} s {speed:8.0f} MB/s   peak {peak:.2f} x the file")
        print(f"    {ours} / {plain}: {seconds[ours] / seconds[plain]:.2f} of the time")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print.

    Args:
        argv: Words of the command line; those of the process if None.

    Returns:
        Exit code 0.

    Raises:
        UserError: The system does not tell the highest memory of a process.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arch", choices=ARCHS, default="large")
    parser.add_argument(
        "--clock", choices=["wall", "cpu"], default="wall", help="cpu: processor time, for a busy machine"
    )
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each, in turns")
    parser.add_argument("--measure", choices=[*PAIRS, *PAIRS.values()], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help="where the files go (default: a temporary folder)")
    parser.add_argument("--make", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if not CLEAR.exists():
        raise UserError(
            "the highest memory of a process is read from /proc, which only Linux has; run it there"
        )
    if args.make:
        make_files(args.folder, args.arch)
    elif args.measure:
        print(json.dumps(measure(args.measure, args.folder, args.arch, args.clock)))
    else:
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            child("--make", "--folder", folder, "--arch", args.arch)
            compare(Path(folder), args.arch, args.rounds, args.clock)
    return 0


if __name__ == "__main__":
    guard(main)
