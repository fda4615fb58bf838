"""Time the forward and backward pass of two backbones in turns, each in a process of its own."""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

import torch
from _workers import ANSWER, Worker, peak_bytes
from torch import nn

from cmae_mm.engine.cpu import fit_to_cpu, keep_memory
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
    made.add_argument(
        "--plain-cpu",
        action="store_true",
        help="run ours on a CPU without what runs of the suite do there: kept memory, oneDNN's matrix products",
    )
    made.add_argument("--serve", help=argparse.SUPPRESS)
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
        argv: Words of the command line, for the processes of the models.
    """
    if args.serve:
        serve(makers[args.serve], images, args, ours=args.serve == next(iter(makers)))
        return
    rates: dict[str, list[float]] = {name: [] for name in makers}
    peaks: dict[str, int] = {}
    with ExitStack() as stack:
        workers = [stack.enter_context(Worker(name, sys.argv[0], argv)) for name in makers]
        for _ in range(args.rounds):
            for worker in workers:
                rate, peaks[worker.name] = worker.measure()
                rates[worker.name].append(rate)
    where = torch.cuda.get_device_name() if images.is_cuda else f"CPU, {torch.get_num_threads()} threads"
    print(f"{where}, torch {torch.__version__}, batch {len(images)}, {images.shape[-1]} px, {args.precision}")
    report(rates, peaks)


def serve(make: Callable[[], nn.Module], images: torch.Tensor, args: argparse.Namespace, ours: bool) -> None:
    """Be the process of one model: for each line of standard input measure once, print images/s and peak bytes.

    Args:
        make: Makes the model.
        images: (B, 3, H, W).
        args: Of :func:`parser`, settled.
        ours: Whether it runs on a CPU as runs of the suite do: with memory that is kept, and its linear layers.
    """
    fit = ours and not args.plain_cpu and not images.is_cuda
    if fit:
        keep_memory()
    model = fit_to_cpu(make()) if fit else make()
    clock = time.process_time if args.clock == "cpu" else time.perf_counter
    for _ in range(2):
        step(model, images, args.precision, clock)  # warm-up: the second fits memory to it
    print(ANSWER, "ready", flush=True)
    for _ in sys.stdin:
        rate = len(images) / step(model, images, args.precision, clock)
        print(ANSWER, rate, peak_bytes(images.device), flush=True)


def report(rates: Mapping[str, Sequence[float]], peaks: Mapping[str, int]) -> None:
    """Print medians over rounds, and in brackets the range.

    Args:
        rates: Images/s of each round, by model; ours first.
        peaks: Bytes, by model.
    """
    for name, values in rates.items():
        peak = f", peak {peaks[name] / 2**30:.2f} GiB"
        spread = f"({min(values):.3f} to {max(values):.3f})"
        print(f"  {name:24s} {statistics.median(values):8.3f} images/s {spread}{peak}")
    (ours, own), *others = rates.items()
    for name, values in others:
        ratios = [a / b for a, b in zip(own, values, strict=True)]
        memory = f", memory {peaks[ours] / peaks[name]:.2f}"
        spread = f"({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"  ratio to {name}: images/s {statistics.median(ratios):.2f} {spread}{memory}")
