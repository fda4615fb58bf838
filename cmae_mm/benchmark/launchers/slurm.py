"""Stages as jobs of Slurm: ``sbatch`` scripts with dependencies, watched through ``squeue`` and ``sacct``."""

from __future__ import annotations

import math
import shlex
import subprocess
import sys
import time
from collections.abc import Collection, Sequence
from pathlib import Path

from cmae_mm.benchmark import fingerprint
from cmae_mm.benchmark.launchers.base import Ended, Launcher, keep_batch
from cmae_mm.benchmark.recipe import ROOT, Slurm
from cmae_mm.benchmark.runner import write_job
from cmae_mm.benchmark.stages import Stage
from cmae_mm.benchmark.state import StateFolder
from cmae_mm.errors import UserError

# What a job can be in while it has not ended.
_ALIVE = ("PENDING", "RUNNING", "CONFIGURING", "COMPLETING", "SUSPENDED", "REQUEUED", "REQUEUE_HOLD", "RESIZING",
          "SIGNALING", "STAGE_OUT", "STOPPED", "SPECIAL_EXIT", "REQUEUE_FED")  # fmt: skip
_DISTRIBUTED = ("train", "test")


def run_command(words: Sequence[str]) -> str:
    """Run one of Slurm's programs.

    Args:
        words: The command.

    Returns:
        What it printed.

    Raises:
        UserError: If it is not there or refuses.
    """
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except OSError as error:
        raise UserError(
            f"--launcher slurm: {words[0]} cannot be run ({error.strerror}); start the benchmark on a login node"
        ) from None
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise UserError(f"--launcher slurm: {words[0]} failed: {said[-1] if said else 'no reason given'}")
    return done.stdout


def script(stage: Stage, job: Path, log: Path, words: Slurm, name: str) -> str:
    """The batch script of a stage.

    Args:
        stage: To run.
        job: Job file of its runner.
        log: Where Slurm's own words go.
        words: What the recipe says about jobs.
        name: Name of the job.

    Returns:
        Text for ``sbatch``.
    """
    gpus, nodes = stage.cost.gpus, _nodes(stage, words)
    tasks = math.ceil(gpus / nodes) if _is_distributed(stage) else 1
    options = [
        f"--job-name={name}",
        f"--output={log}",
        "--open-mode=append",
        "--requeue",
        f"--nodes={nodes}",
        f"--ntasks-per-node={tasks}",
        f"--cpus-per-task={words.cpus_per_gpu if gpus else 1}",
    ]
    options += [f"--gres=gpu:{math.ceil(gpus / nodes)}"] if gpus else []
    options += [f"--partition={words.partition}"] if words.partition else []
    options += [f"--account={words.account}"] if words.account else []
    options += [f"--time={math.ceil(words.hours * 60)}"] if words.hours else []
    lines = ["#!/bin/bash", *(f"#SBATCH {option}" for option in [*options, *words.extra])]
    lines += [f"cd {shlex.quote(str(ROOT))}", "export PYTHONUNBUFFERED=1"]
    lines += [f"exec {shlex.join([sys.executable, '-m', 'cmae_mm.benchmark.runner', str(job)])}"]
    return "\n".join(lines) + "\n"


def _is_distributed(stage: Stage) -> bool:
    return stage.cost.gpus > 1 and stage.program in _DISTRIBUTED


def _nodes(stage: Stage, words: Slurm) -> int:
    return max(1, math.ceil(stage.cost.gpus / words.gpus_per_node)) if _is_distributed(stage) else 1


class SlurmLauncher(Launcher):
    """Hands stages to Slurm.

    Args:
        state: Where jobs, scripts and logs go; must be visible on all nodes.
        words: What recipe and command line say about jobs.
        pause: Seconds between two looks at the queue.
        grace: Seconds to wait for a state file after a job has left the queue: shared folders are slow.
    """

    ahead = True

    def __init__(self, state: StateFolder, words: Slurm, pause: float = 15.0, grace: float = 60.0) -> None:
        self.state, self.words, self.pause, self.grace = state, words, pause, grace
        self._mark = fingerprint.digest([str(state.out)])[:8]
        self._jobs: dict[str, tuple[Stage, str]] = {}
        self._gone: dict[str, float] = {}

    def _name(self, stage: Stage) -> str:
        return f"cmae-{self._mark}-{stage.name}"

    def has_room(self, stage: Stage) -> bool:
        """Returns: True: the queue has room for everything."""
        return True

    def command(self, stage: Stage) -> list[str]:
        """Returns: What the runner starts: the plain command, or ``srun`` with a task for each GPU."""
        argv = list(stage.argv)
        if _is_distributed(stage):
            place = argv.index("--cfg-options") if "--cfg-options" in argv else len(argv)
            argv = [*argv[:place], "--launcher", "slurm", *argv[place:]]
            argv = ["srun", "--kill-on-bad-exit=1", f"--cpus-per-task={self.words.cpus_per_gpu}", *argv]
        return keep_batch(stage, argv, max(1, stage.cost.gpus))

    def start(self, stage: Stage, after: Collection[str]) -> str:
        """Submit a job; it starts once the jobs before it have ended well."""
        threads = str(self.words.cpus_per_gpu if stage.cost.gpus else 1)
        environment = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        job = write_job(self.state, stage, self.command(stage), environment)
        path = self.state.folder / f"{stage.name}.sbatch"
        log = self.state.folder / f"{stage.name}.slurm.log"
        path.write_text(script(stage, job, log, self.words, self._name(stage)))
        needs = [self._jobs[name][1] for name in after if name in self._jobs]
        depend = [f"--dependency=afterok:{':'.join(needs)}", "--kill-on-invalid-dep=yes"] if needs else []
        answer = run_command(["sbatch", "--parsable", *depend, str(path)])
        number = answer.strip().split(";")[0]
        self._jobs[stage.name] = (stage, number)
        return f"job {number}"

    def adopt(self, stages: Sequence[Stage]) -> list[Stage]:
        """Find jobs of these stages in the queue, by their names."""
        wanted = {self._name(stage): stage for stage in stages}
        found = []
        for number, name, state in _queue():
            if name in wanted and state in _ALIVE:
                self._jobs[wanted[name].name] = (wanted[name], number)
                found.append(wanted[name])
        return found

    def ended(self) -> list[Ended]:
        """Returns: The stages whose jobs left the queue and whose state is known."""
        if not self._jobs:
            return []
        alive = {number for number, _, state in _queue() if state in _ALIVE}
        over, now = [], time.monotonic()
        for name, (stage, number) in list(self._jobs.items()):
            if number in alive:
                self._gone.pop(name, None)
                continue
            since = self._gone.setdefault(name, now)
            told = self.state.read(stage).get("status")
            state = "" if told == "done" else _final_state(number)
            if told in ("done", "failed") or state not in ("", "COMPLETED") or now - since >= self.grace:
                del self._jobs[name], self._gone[name]
                over.append(Ended(stage, None, state))
        return over

    def stop(self, names: Collection[str] | None = None) -> None:
        """Cancel jobs: those of the named stages, or all."""
        chosen = [name for name in self._jobs if names is None or name in names]
        if chosen:
            run_command(["scancel", *(self._jobs[name][1] for name in chosen)])
        for name in chosen:
            del self._jobs[name]


def _queue() -> list[tuple[str, str, str]]:
    """Number, name and state of the user's jobs."""
    lines = run_command(["squeue", "--me", "--noheader", "--format=%i|%j|%T"]).splitlines()
    return [(a.strip(), b.strip(), c.strip()) for a, b, c in (line.split("|", 2) for line in lines if line)]


def _final_state(number: str) -> str:
    """How a job ended: from the accounting, or from the controller's memory where there is none; empty if unknown."""
    for words in (
        ["sacct", "-n", "-X", "-P", "-j", number, "-o", "State"],
        ["scontrol", "-o", "show", "job", number],
    ):
        try:
            text = run_command(words).strip()
        except UserError:
            continue
        found = [w.partition("=")[2] for w in text.split() if w.startswith("JobState=")] or text.splitlines()
        if found and found[0] not in _ALIVE:
            return found[0]
    return ""
