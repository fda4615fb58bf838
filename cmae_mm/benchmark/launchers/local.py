"""Stages as programs of this machine: some at a time, each with GPUs or cores of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Collection
from dataclasses import dataclass, replace

from cmae_mm.benchmark.launchers.base import Ended, Launcher, keep_batch, several
from cmae_mm.benchmark.runner import left_behind, write_job
from cmae_mm.benchmark.stages import Stage
from cmae_mm.benchmark.state import StateFolder

_FIRST_PORT = 29511


def visible_gpus() -> list[str]:
    """Returns: The GPUs that programs may use, as ``CUDA_VISIBLE_DEVICES`` names them."""
    if (chosen := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [word for word in chosen.split(",") if word.strip() and word.strip() != "-1"]
    if not shutil.which("nvidia-smi"):
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False).stdout
    return [str(i) for i, _ in enumerate(line for line in listed.splitlines() if line.startswith("GPU "))]


def default_jobs() -> int:
    """Returns: Programs without a GPU that run at a time: up to 2, of one core or more each."""
    return max(1, min(2, os.cpu_count() or 1))


@dataclass
class _Running:
    stage: Stage
    process: subprocess.Popen[bytes]
    gpus: list[str]
    port: int


class LocalLauncher(Launcher):
    """Runs stages on this machine.

    Args:
        state: Where jobs and logs go.
        jobs: Programs at a time that use no GPU.
        gpus: Names of the GPUs; those that are visible if None.
    """

    def __init__(self, state: StateFolder, jobs: int | None = None, gpus: list[str] | None = None) -> None:
        self.state = state
        self.jobs = jobs or default_jobs()
        self.gpus = visible_gpus() if gpus is None else gpus
        self._running: dict[str, _Running] = {}

    def _wanted(self, stage: Stage) -> int:
        """GPUs that a stage gets here: what its recipe asks for, if the machine has them."""
        return min(stage.cost.gpus, len(self.gpus))

    def _free(self) -> list[str]:
        busy = {gpu for running in self._running.values() for gpu in running.gpus}
        return [gpu for gpu in self.gpus if gpu not in busy]

    def has_room(self, stage: Stage) -> bool:
        """Returns: Whether enough GPUs, or a place among the programs without one, are free."""
        if wanted := self._wanted(stage):
            return len(self._free()) >= wanted
        return sum(not running.gpus for running in self._running.values()) < self.jobs

    def command(self, stage: Stage) -> list[str]:
        """Returns: The plain command, or torchrun with a process for each GPU."""
        processes = self._wanted(stage)
        return keep_batch(stage, several(stage, processes), max(1, processes))

    def timed(self, stage: Stage) -> Stage:
        """Returns: The stage with the time that its GPU hours take on the GPUs of this machine."""
        if not (stage.cost.gpu_hours and self.gpus):
            return stage
        seconds = stage.cost.gpu_hours * 3600 / max(1, self._wanted(stage))
        return replace(stage, cost=replace(stage.cost, seconds=seconds))

    def _make_way(self, stage: Stage) -> str:
        """A runner that a killed benchmark left behind is waited for if it does the same, and else stopped."""
        process = left_behind(self.state, stage)
        if process is None:
            return ""
        before = self.state.read(stage).get("parts") or {}
        same = all(before.get(name) == value for name, value in self.state.static_parts(stage).items())
        if same or not process:
            return "waits for an earlier run of it, which still goes on"
        _kill(process, signal.SIGTERM)
        return "an earlier version of it still ran and was stopped"

    def start(self, stage: Stage, after: Collection[str]) -> str:
        """Start a runner in a session of its own."""
        remark = self._make_way(stage)
        gpus = self._free()[: self._wanted(stage)]
        ports = {running.port for running in self._running.values()}
        port = next(p for p in range(_FIRST_PORT, _FIRST_PORT + 1000) if p not in ports)
        threads = str(max(1, (os.cpu_count() or 1) // max(self.jobs, len(self._running) + 1)))
        environment = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "PYTHONUNBUFFERED": "1"}
        if self.gpus:
            environment |= {"CUDA_VISIBLE_DEVICES": ",".join(gpus), "PORT": str(port)}
        job = write_job(self.state, stage, self.command(stage), environment)
        process = subprocess.Popen(
            [sys.executable, "-m", "cmae_mm.benchmark.runner", str(job)],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._running[stage.name] = _Running(stage, process, gpus, port)
        return remark

    def ended(self) -> list[Ended]:
        """Returns: The stages whose runners ended."""
        over = [r for r in self._running.values() if r.process.poll() is not None]
        for running in over:
            del self._running[running.stage.name]
            _kill(running.process.pid, signal.SIGKILL)  # loader processes that are left
        return [Ended(running.stage, running.process.returncode) for running in over]

    def stop(self, names: Collection[str] | None = None) -> None:
        """Stop programs: a moment to end by themselves, then at once, with all their children."""
        chosen = [r for name, r in self._running.items() if names is None or name in names]
        for running in chosen:
            _kill(running.process.pid, signal.SIGTERM)
        for running in chosen:
            with contextlib.suppress(subprocess.TimeoutExpired):
                running.process.wait(timeout=10)
            _kill(running.process.pid, signal.SIGKILL)
            running.process.wait()
            self._running.pop(running.stage.name, None)


def _kill(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
