"""A process for each model that is benchmarked: they measure in turn, and each has a peak memory of its own."""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress

import torch

from cmae_mm.errors import UserError

ANSWER = "measured:"  # begins what a process says to the one that started it; libraries print too


class Worker:
    """A process that holds one model and measures when asked; use it as a context.

    Args:
        name: Of the model, for ``--serve``.
        script: The program, which prints `ANSWER` and a rate and a peak for each line that it reads.
        argv: Words of the command line.
    """

    def __init__(self, name: str, script: str, argv: Sequence[str]) -> None:
        self.name = name
        command = [sys.executable, script, *argv, "--serve", name]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._answer()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *exception: object) -> None:
        with self._process:  # closes its input, at which it ends
            pass

    def measure(self) -> tuple[float, int]:
        """Give images/s of one measurement, and the peak memory so far in bytes.

        Raises:
            UserError: The process failed; it has said why.
        """
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it has died: there is no answer
            print("go", file=self._process.stdin, flush=True)
        rate, peak = self._answer().split()
        return float(rate), int(peak)

    def _answer(self) -> str:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(ANSWER):
                return line.removeprefix(ANSWER)
        raise UserError(f"The step of {self.name} failed, see above; repair that or leave the model out.")


def serve(
    step: Callable[[], object],
    images: int,
    steps: int,
    device: torch.device,
    clock: str,
    warm_up: bool = True,
) -> None:
    """Be the process of one model: for each line of standard input measure once, print images/s and peak bytes.

    Args:
        step: What is measured.
        images: That it works on.
        steps: Steps of one measurement.
        device: Where it runs.
        clock: ``wall``, or ``cpu`` for the processor time of all threads.
        warm_up: Run twice before.
    """
    if warm_up:
        step(), step()  # warm-up: the first makes the optimizer's state, the second fits memory to it
    print(ANSWER, "ready", flush=True)
    for _ in sys.stdin:
        print(ANSWER, timed(step, images, steps, device, clock), peak_bytes(device), flush=True)


def timed(step: Callable[[], object], images: int, steps: int, device: torch.device, clock: str) -> float:
    """Time steps, in images per second; arguments as of :func:`serve`."""
    wait = torch.cuda.synchronize if device.type == "cuda" else (lambda: None)
    now = time.process_time if clock == "cpu" else time.perf_counter
    wait()
    start = now()
    for _ in range(steps):
        step()
    wait()
    return steps * images / (now() - start)


def peak_bytes(device: torch.device) -> int:
    """Peak memory of this process: what torch allocated on a GPU, else what it held at most, libraries included."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def in_turn(
    script: str, names: Sequence[str], argv: Sequence[str], rounds: int
) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Start a process for each model and let them measure in turn, so that other work hits all alike.

    Args:
        script: The benchmark.
        names: Of the models.
        argv: Words of the command line.
        rounds: Measurements of each.

    Returns:
        Images/s of each round and peak bytes, by model.
    """
    rates: dict[str, list[float]] = {name: [] for name in names}
    peaks: dict[str, int] = {}
    with ExitStack() as stack:
        workers = [stack.enter_context(Worker(name, script, argv)) for name in names]
        for _ in range(rounds):
            for worker in workers:
                rate, peaks[worker.name] = worker.measure()
                rates[worker.name].append(rate)
    return rates, peaks


def report(rates: dict[str, list[float]], peaks: dict[str, int]) -> None:
    """Print images/s, peak memory and the ratios of ours to the others.

    Args:
        rates: Images/s of each round, by model; ours first.
        peaks: Bytes, by model.
    """
    ours = next(iter(rates))
    for name, values in rates.items():
        spread = f"({min(values):.3g} to {max(values):.3g})"
        peak = f"peak {peaks[name] / 2**30:.2f} GiB"
        print(f"{name:8s} {statistics.median(values):9.3f} images/s {spread}, {peak}")
    for name, values in list(rates.items())[1:]:
        ratios = [own / other for own, other in zip(rates[ours], values, strict=True)]
        spread = f"({min(ratios):.3f} to {max(ratios):.3f})"
        memory = f"memory {peaks[ours] / peaks[name]:.2f}"
        print(f"{ours} / {name:8s} images/s {statistics.median(ratios):.3f} {spread}, {memory}")
