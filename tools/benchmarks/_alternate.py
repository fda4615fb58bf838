"""Time the forward and backward pass of two backbones in turns; measure the peak memory of each in its own process."""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn

from cmae_mm.errors import UserError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def parser(description: str | None) -> argparse.ArgumentParser:
    """Make a parser with the options that all comparisons share.

    Args:
        description: Docstring of the program.
    """
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    made.add_argument("--batch", type=int, default=1)
    made.add_argument("--rounds", type=int, default=5, help="measurements of each model, in turn")
    made.add_argument("--precision", choices=DTYPES, help="default: bf16 (autocast) on a GPU, fp32 on a CPU")
    made.add_argument("--threads", type=int, help="CPU threads; default: torch's choice")
    made.add_argument(
        "--clock",
        choices=("wall", "cpu"),
        default="wall",
        help="cpu: processor time of all threads, steadier where other programs run; best with --threads 1",
    )
    made.add_argument("--no-memory", action="store_true", help="skip peak memory, which restarts each model")
    made.add_argument("--peak-of", help=argparse.SUPPRESS)
    return made


def settle(args: argparse.Namespace) -> torch.device:
    """Fill in what depends on the device; set threads and seed.

    Args:
        args: Of :func:`parser`; changed in place.

    Raises:
        UserError: A GPU is asked for and there is none, or its work shall be timed by the CPU's clock.
    """
    if args.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch sees no GPU here; use --device cpu.")
    on_gpu = args.device != "cpu" and torch.cuda.is_available()
    if on_gpu and args.clock == "cpu":
        raise UserError("--clock cpu: a GPU's work takes no processor time; use --clock wall.")
    args.precision = args.precision or ("bf16" if on_gpu else "fp32")
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    return torch.device("cuda" if on_gpu else "cpu")


def step(model: nn.Module, images: torch.Tensor, precision: str, clock: Callable[[], float]) -> float:
    """Run forward and backward once; gradients are dropped.

    Args:
        model: Turns images into a tuple of maps.
        images: (B, 3, H, W).
        precision: A key of ``DTYPES``.
        clock: Tells seconds.

    Returns:
        Seconds.
    """
    wait = torch.cuda.synchronize if images.is_cuda else (lambda: None)
    wait()
    start = clock()
    with torch.autocast(images.device.type, dtype=DTYPES[precision], enabled=precision != "fp32"):
        loss = sum(m.float().square().mean() for m in model(images))
    loss.backward()
    wait()
    seconds = clock() - start
    model.zero_grad(set_to_none=True)
    return seconds


def peak_bytes(model: nn.Module, images: torch.Tensor, precision: str) -> int:
    """Do two steps and tell the peak memory: what torch allocated on a GPU, else what this process held at most."""
    for _ in range(2):
        step(model, images, precision, time.perf_counter)
    if images.is_cuda:
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def peak_in_own_process(name: str, argv: Sequence[str]) -> int:
    """Start this program again to measure the peak memory of one model, in bytes.

    Raises:
        UserError: It failed; it has said why.
    """
    command = [sys.executable, sys.argv[0], *argv, "--peak-of", name]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise UserError(f"The step of {name} failed, see above; repair that or use --no-memory.")
    return int(done.stdout.splitlines()[-1])


def compare(
    makers: Mapping[str, Callable[[], nn.Module]],
    images: torch.Tensor,
    args: argparse.Namespace,
    argv: Sequence[str],
) -> None:
    """Print images/s and peak memory of each model, and the ratios of the first to the others.

    Args:
        makers: Makes each model, on the device of the images; ours first.
        images: (B, 3, H, W).
        args: Of :func:`parser`, settled.
        argv: Words of the command line, for the processes that measure memory.
    """
    if args.peak_of:
        print(peak_bytes(makers[args.peak_of](), images, args.precision))
        return
    peaks = {} if args.no_memory else {name: peak_in_own_process(name, argv) for name in makers}
    clock = time.process_time if args.clock == "cpu" else time.perf_counter
    models = {name: make() for name, make in makers.items()}
    rates: dict[str, list[float]] = {name: [] for name in models}
    for i in range(args.rounds + 1):
        for name, model in models.items():
            seconds = step(model, images, args.precision, clock)
            if i:  # the first is a warm-up
                rates[name].append(len(images) / seconds)
    where = torch.cuda.get_device_name() if images.is_cuda else f"CPU, {torch.get_num_threads()} threads"
    print(f"{where}, torch {torch.__version__}, batch {len(images)}, {images.shape[-1]} px, {args.precision}")
    report(rates, peaks)


def report(rates: Mapping[str, Sequence[float]], peaks: Mapping[str, int]) -> None:
    """Print medians over rounds, and in brackets the range.

    Args:
        rates: Images/s of each round, by model; ours first.
        peaks: Bytes, by model; empty if not measured.
    """
    for name, values in rates.items():
        peak = f", peak {peaks[name] / 2**30:.2f} GiB" if peaks else ""
        spread = f"({min(values):.3f} to {max(values):.3f})"
        print(f"  {name:24s} {statistics.median(values):8.3f} images/s {spread}{peak}")
    (ours, own), *others = rates.items()
    for name, values in others:
        ratios = [a / b for a, b in zip(own, values, strict=True)]
        memory = f", memory {peaks[ours] / peaks[name]:.2f}" if peaks else ""
        spread = f"({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"  ratio to {name}: images/s {statistics.median(ratios):.2f} {spread}{memory}")
