"""The progress line: what runs, how far it is, and when everything will be done."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence

from cmae_mm.benchmark.stages import PROGRESS_FILE, Stage
from cmae_mm.benchmark.state import read_json


def clock(seconds: float) -> str:
    """Returns: ``m:ss`` or ``h:mm:ss``."""
    whole = max(0, round(seconds))
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def fraction(stage: Stage) -> float | None:
    """Returns: The done part of a running stage, 0 to 1; None if it says nothing."""
    value = read_json(stage.work / PROGRESS_FILE) if stage.work else {}
    return value["done"] / value["total"] if value.get("total") else None


def remaining(stage: Stage, elapsed: float, speed: float) -> float:
    """Seconds until a running stage ends.

    Args:
        stage: The stage.
        elapsed: Seconds since it started.
        speed: Measured by estimated duration of the stages that are finished.

    Returns:
        Estimate: by its own progress once a tenth is done, else by the recipe's duration.
    """
    part = fraction(stage)
    if part is not None and part > 0.1:
        return elapsed * (1 - part) / part
    return max(stage.seconds * speed - elapsed, 1.0)


def total_remaining(
    running: Mapping[Stage, float], waiting: Sequence[Stage], jobs: int, speed: float
) -> float:
    """Seconds until everything is done, by playing the schedule through.

    Args:
        running: Running stages and the seconds each still needs.
        waiting: Stages not started, in order.
        jobs: How many run at a time.
        speed: See :func:`remaining`.

    Returns:
        Estimate in seconds.
    """
    ends = {stage.name: left for stage, left in running.items()}
    slots = [*ends.values(), *([0.0] * (jobs - len(ends)))]
    for stage in waiting:
        slots.sort()
        ready = max([ends.get(name, 0.0) for name in stage.needs], default=0.0)
        slots[0] = max(slots[0], ready) + stage.seconds * speed
        ends[stage.name] = slots[0]
    return max(slots, default=0.0)


class ProgressLine:
    """One line that is rewritten on a terminal, or a line every 15 seconds elsewhere.

    Args:
        where: Output folder, shown at the end.
    """

    def __init__(self, where: str) -> None:
        self.where = where
        self.live = sys.stdout.isatty()
        self._start = self._last = time.monotonic()
        self._width = 0

    def update(self, text: str) -> None:
        """Show the current state; without a terminal only now and then."""
        line = f"  {text} -> {self.where}"
        if self.live:
            sys.stdout.write("\r" + line.ljust(self._width))
            self._width = len(line)
            sys.stdout.flush()
        elif time.monotonic() - self._last >= 15:
            self._last = time.monotonic()
            print(line, flush=True)

    def event(self, text: str) -> None:
        """Print a line that stays."""
        if self.live:
            sys.stdout.write("\r" + " " * self._width + "\r")
        print(text, flush=True)
