"""One program of a benchmark: what it needs, what it makes, and what its result depends on."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cmae_mm.benchmark import fingerprint
from cmae_mm.benchmark.recipe import FREE, ROOT, Cost

PROGRESS_FILE = "progress.json"
"""What a run keeps up to date in its work dir: ``done`` and ``total``."""

_ENTRIES = {
    "import": "cmae_mm/checkpoints/commands.py",
    "data": "cmae_mm/data/command.py",
}


@dataclass(frozen=True)
class Stage:
    """One program of a benchmark.

    Attributes:
        name: Unique; also the name of its log and state file.
        title: What a person reads.
        kind: data, pretrain, import, transfer, evaluate or pictures.
        argv: The command, as one process on one machine runs it. Launchers start it on more.
        needs: Names of stages that must be finished before.
        makes: Files that exist when it is done.
        work: Its own work dir, moved aside when the stage is started with another fingerprint; None if it has none.
        cost: What it is expected to take.
        config: Config file of the run, relative to the project.
        inputs: Files whose content the result depends on.
        data: Folder of the data that it reads.
        result: JSON file with the metrics; None if there are none.
        record: What its record says beside what the run wrote; None if it gets no record.
        labels: Names of its backbone and task, by which ``--only`` finds it.
    """

    name: str
    title: str
    kind: str
    argv: tuple[str, ...]
    needs: tuple[str, ...] = ()
    makes: tuple[Path, ...] = ()
    work: Path | None = None
    cost: Cost = FREE
    config: str = ""
    inputs: tuple[Path, ...] = ()
    data: Path | None = None
    result: Path | None = None
    record: Mapping[str, Any] | None = field(default=None, compare=False, hash=False)
    labels: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """Rough duration: on two cores where the recipe knows it, else on the GPUs of the published recipe."""
        return self.cost.seconds or self.cost.gpu_hours * 3600 / max(1, self.cost.gpus)

    @property
    def program(self) -> str:
        """The program of ``tools/`` that it runs, or the command of ``cmae-mm``."""
        return self.argv[3] if self.argv[1:3] == ("-m", "cmae_mm") else Path(self.argv[1]).stem

    def static_parts(self, out: Path) -> dict[str, str]:
        """Hashes that do not wait for what other stages make.

        Args:
            out: Folder of all outputs.

        Returns:
            The hashes of command, config and code.
        """
        entry = _ENTRIES.get(self.program, self.argv[1])
        return {
            "command": fingerprint.command_hash(self.argv, out),
            "config": fingerprint.config_hash(self.config),
            "code": fingerprint.code_hash(entry, self.config),
        }


def moving_parts(inputs: tuple[Path, ...], data: Path | None) -> dict[str, str]:
    """Hashes of what other stages make, or what may change while a benchmark waits.

    Args:
        inputs: Files whose content counts.
        data: Folder of a data set.

    Returns:
        The hashes of weights and data.
    """
    weights = fingerprint.digest(fingerprint.file_hash(path) for path in inputs) if inputs else ""
    return {"weights": weights, "data": fingerprint.data_hash(data)}


def suite(*words: object) -> tuple[str, ...]:
    """Returns: A ``cmae-mm`` command."""
    return (sys.executable, "-m", "cmae_mm", *map(str, words))


def tool(name: str, *words: object) -> tuple[str, ...]:
    """Returns: A program of ``tools/``."""
    return (sys.executable, str(ROOT / "tools" / f"{name}.py"), *map(str, words))
