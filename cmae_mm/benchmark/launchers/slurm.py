"""Stages as jobs of Slurm: ``sbatch`` with dependencies and arrays, watched through ``squeue`` and ``sacct``."""

from __future__ import annotations

import subprocess
import time
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from cmae_mm.benchmark import fingerprint
from cmae_mm.benchmark.launchers.base import Ended, Launcher, keep_batch
from cmae_mm.benchmark.launchers.slurm_script import LARGEST_ARRAY, is_distributed, resources, script
from cmae_mm.benchmark.recipe import Slurm
from cmae_mm.benchmark.runner import write_job
from cmae_mm.benchmark.stages import Stage
from cmae_mm.benchmark.state import StateFolder, read_json, write_json
from cmae_mm.errors import UserError

# What a job can be in while it has not ended.
_ALIVE = ("PENDING", "RUNNING", "CONFIGURING", "COMPLETING", "SUSPENDED", "REQUEUED", "REQUEUE_HOLD", "RESIZING",
          "SIGNALING", "STAGE_OUT", "STOPPED", "SPECIAL_EXIT", "REQUEUE_FED")  # fmt: skip


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


@dataclass(frozen=True)
class _Waiting:
    """A stage that is handed over with the next submission."""

    stage: Stage
    job: Path
    after: tuple[str, ...]


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
        self._waiting: list[_Waiting] = []
        self._jobs: dict[str, tuple[Stage, str]] = {}
        self._gone: dict[str, float] = {}

    def _name(self, label: str) -> str:
        return f"cmae-{self._mark}-{label}"

    def has_room(self, stage: Stage) -> bool:
        """Returns: True: the queue has room for everything."""
        return True

    def command(self, stage: Stage) -> list[str]:
        """Returns: What the runner starts: the plain command, or ``srun`` with a task for each GPU."""
        argv = list(stage.argv)
        if is_distributed(stage):
            place = argv.index("--cfg-options") if "--cfg-options" in argv else len(argv)
            argv = [*argv[:place], "--launcher", "slurm", *argv[place:]]
            argv = ["srun", "--kill-on-bad-exit=1", f"--cpus-per-task={self.words.cpus_per_gpu}", *argv]
        return keep_batch(stage, argv, max(1, stage.cost.gpus))

    def start(self, stage: Stage, after: Collection[str]) -> str:
        """Note a job for the next submission; it starts once the jobs before it have ended well."""
        threads = str(self.words.cpus_per_gpu if stage.cost.gpus else 1)
        environment = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        job = write_job(self.state, stage, self.command(stage), environment)
        self._waiting.append(_Waiting(stage, job, tuple(after)))
        return ""

    def submit(self) -> list[str]:
        """Hand over what was noted: stages that ask for the same and wait for the same jobs as one array.

        Returns:
            A sentence for each submission.
        """
        told = []
        while self._waiting:
            open_ones = {w.stage.name for w in self._waiting}
            groups = defaultdict(list)
            for waiting in self._waiting:
                if not open_ones & set(waiting.after):  # what it waits for has a number already
                    needs = tuple(self._jobs[n][1] for n in waiting.after if n in self._jobs)
                    groups[waiting.stage.kind, tuple(resources(waiting.stage, self.words)), needs].append(
                        waiting
                    )
            for (_, options, needs), group in groups.items():
                for first in range(0, len(group), LARGEST_ARRAY):
                    told.append(self._submit(group[first : first + LARGEST_ARRAY], options, needs))
        return told

    def _submit(self, group: Sequence[_Waiting], options: Sequence[str], needs: Sequence[str]) -> str:
        names = [waiting.stage.name for waiting in group]
        several = len(group) > 1
        label = f"array-{fingerprint.digest(names)[:12]}" if several else names[0]
        if several:  # written first: a benchmark that is killed now finds its tasks again
            write_json(self._array_file(label), {"stages": names})
        path = self.state.folder / f"{label}.sbatch"
        log = self.state.folder / f"{label}{'.%a' if several else ''}.slurm.log"
        jobs = [waiting.job for waiting in group]
        path.write_text(script(options, jobs, log, self._name(label), self.words.at_once))
        depend = [f"--dependency=afterok:{':'.join(needs)}", "--kill-on-invalid-dep=yes"] if needs else []
        number = run_command(["sbatch", "--parsable", *depend, str(path)]).strip().split(";")[0]
        for i, waiting in enumerate(group):
            self._jobs[waiting.stage.name] = (waiting.stage, f"{number}_{i}" if several else number)
            self._waiting.remove(waiting)
        if several:
            first, last = group[0].stage.title, group[-1].stage.title
            return f"job array {number}, {len(group)} tasks: {first} to {last}"
        return f"job {number}: {group[0].stage.title}"

    def _array_file(self, label: str) -> Path:
        return self.state.folder / f"{label}.json"

    def adopt(self, stages: Sequence[Stage]) -> list[Stage]:
        """Find jobs of these stages in the queue, by their names and, in an array, their places."""
        wanted = {stage.name: stage for stage in stages}
        found = []
        for number, name, state in _queue():
            label = name.removeprefix(self._name(""))
            if label != name and "_" in number:
                members = read_json(self._array_file(label)).get("stages", [])
                place = int(number.partition("_")[2])
                label = members[place] if place < len(members) else ""
            if label != name and label in wanted and state in _ALIVE:
                self._jobs[label] = (wanted[label], number)
                found.append(wanted[label])
        return found

    def ended(self) -> list[Ended]:
        """Returns: The stages whose jobs left the queue and whose state is known."""
        if not self._jobs:
            return []
        alive = _alive()
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
        """Cancel jobs, those of the named stages or all, and wait until they have left the queue.

        A job that was cancelled while it ran stays in the queue for a moment; a benchmark that starts in that
        moment would take it for one that still runs.
        """
        self._waiting = [w for w in self._waiting if names is not None and w.stage.name not in names]
        chosen = [name for name in self._jobs if names is None or name in names]
        numbers = {self._jobs.pop(name)[1] for name in chosen}
        if not numbers:
            return
        run_command(["scancel", *sorted(numbers)])
        end = time.monotonic() + self.grace
        while numbers & _alive() and time.monotonic() < end:
            time.sleep(min(self.pause, 1.0))


def _queue() -> list[tuple[str, str, str]]:
    """Number, name and state of the user's jobs; each task of an array by itself, as ``number_task``."""
    lines = run_command(["squeue", "--me", "--array", "--noheader", "--format=%i|%j|%T"]).splitlines()
    return [(a.strip(), b.strip(), c.strip()) for a, b, c in (line.split("|", 2) for line in lines if line)]


def _alive() -> set[str]:
    return {number for number, _, state in _queue() if state in _ALIVE}


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
