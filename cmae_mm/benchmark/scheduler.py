"""Run stages as separate programs, several at a time, so that a stop costs little."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from cmae_mm.benchmark.progress import ProgressLine, clock, fraction, remaining, total_remaining
from cmae_mm.benchmark.stages import Stage
from cmae_mm.benchmark.state import StateFolder


def default_jobs() -> int:
    """Returns: 1 where a GPU does the work, else up to 2 programs of one core or more each."""
    return 1 if shutil.which("nvidia-smi") else max(1, min(2, os.cpu_count() or 1))


class Scheduler:
    """Runs every stage whose needs are met; finished ones are skipped.

    Args:
        stages: In order; each comes after what it needs.
        state: What earlier runs finished.
        out: Output folder, for the progress line.
        jobs: How many programs run at a time.
    """

    def __init__(self, stages: Sequence[Stage], state: StateFolder, out: Path, jobs: int) -> None:
        self.stages, self.state, self.jobs = list(stages), state, jobs
        self.line = ProgressLine(str(out))
        self.done: set[str] = set()
        for stage in stages:  # a result counts only while everything that it was made from counts
            if set(stage.needs) <= self.done and state.finished(stage):
                self.done.add(stage.name)
        self.failed: dict[str, Stage] = {}
        self._open: set[str] = set()
        self._running: dict[Stage, tuple[subprocess.Popen[bytes], float, IO[bytes]]] = {}

    def run(self) -> bool:
        """Run until nothing can be started any more.

        Returns:
            Whether every stage is finished.

        Raises:
            KeyboardInterrupt: After the running programs were stopped.
        """
        try:
            while self._start_ready() or self._running:
                time.sleep(0.3)
                self._reap()
                self._show()
        except BaseException:
            self._stop()
            raise
        return len(self.done) == len(self.stages)

    def _waiting(self) -> list[Stage]:
        busy = {s.name for s in self._running} | self.done | set(self.failed)
        waiting = [s for s in self.stages if s.name not in busy]
        lost: set[str] = set(self.failed)
        for stage in waiting:  # what needs a failed stage cannot run
            if lost & set(stage.needs):
                lost.add(stage.name)
        return [s for s in waiting if s.name not in lost]

    def _start_ready(self) -> bool:
        started = False
        for stage in self._waiting():
            if not set(stage.needs) <= self.done:
                continue
            if stage.name not in self._open and self.state.finished(stage):
                self.done.add(stage.name)  # what it needed was made again, with the same content
                started = True
                continue
            self._open.add(stage.name)  # its inputs are hashed once, not at every look
            if len(self._running) < self.jobs:
                self._start(stage)
                started = True
        return started

    def _start(self, stage: Stage) -> None:
        self.state.folder.mkdir(parents=True, exist_ok=True)
        self.state.begin(stage)
        threads = str(max(1, (os.cpu_count() or 1) // self.jobs))
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,
            "PYTHONUNBUFFERED": "1",
        }
        log = open(self.state.log(stage), "ab")  # noqa: SIM115  (closed when the program ends)
        process = subprocess.Popen(
            stage.argv,
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )
        self._running[stage] = (process, time.monotonic(), log)
        self.line.event(f"start  {stage.title} (about {clock(stage.seconds * self._speed())})")

    def _reap(self) -> None:
        for stage, (process, began, log) in list(self._running.items()):
            code = process.poll()
            if code is None:
                continue
            log.close()
            del self._running[stage]
            seconds = time.monotonic() - began
            self.state.end(stage, seconds, code)
            if self.state.finished(stage):
                self.done.add(stage.name)
                self.line.event(f"done   {stage.title} in {clock(seconds)}")
            else:
                self.failed[stage.name] = stage
                self.line.event(f"FAILED {stage.title}: {_last_words(self.state.log(stage))}")

    def _show(self) -> None:
        if not self._running:
            return
        speed, now = self._speed(), time.monotonic()
        left = {s: remaining(s, now - began, speed) for s, (_, began, _) in self._running.items()}
        parts = []
        for stage, rest in left.items():
            part = fraction(stage)
            parts.append(f"{stage.title} {f'{part:.0%} ' if part is not None else ''}ETA {clock(rest)}")
        total = total_remaining(left, self._waiting(), self.jobs, speed)
        self.line.update(
            f"[{len(self.done)}/{len(self.stages)}] {' | '.join(parts)} || all done in {clock(total)}"
        )

    def _speed(self) -> float:
        finished = [s for s in self.stages if s.name in self.done]
        estimate = sum(s.seconds for s in finished)
        # the estimate of the recipe counts like two minutes of measurement
        return (sum(self.state.seconds(s) for s in finished) + 120) / (estimate + 120)

    def _stop(self) -> None:
        for process, _, _ in self._running.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        for process, _, log in self._running.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=10)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # loader processes that are left
            log.close()


def _last_words(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines[-40:] if line.startswith("error:")] or lines[-1:]
    return f"{errors[-1] if errors else 'no output'} (log: {log})"
