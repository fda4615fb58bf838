"""What is known of a stage from earlier runs: finished, started, failed or open."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cmae_mm.benchmark import fingerprint
from cmae_mm.benchmark.stages import Stage, moving_parts
from cmae_mm.errors import UserError


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that a crash leaves the old file or the new one, never a part.

    Args:
        path: Target file; its folder is made.
        value: Plain data.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    with open(temporary, "w") as handle:
        handle.write(json.dumps(value, indent=2, sort_keys=True) + "\n")
        handle.flush()
        os.fsync(handle.fileno())
    os.replace(temporary, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the new name itself
    finally:
        os.close(folder)


def read_json(path: Path) -> dict[str, Any]:
    """Returns: The object in a JSON file; empty if the file is missing or damaged."""
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep a second benchmark out of the same folder; the lock goes with the process, however it ends.

    Args:
        folder: Output folder; exists.

    Raises:
        UserError: If another benchmark holds it.
    """
    with open(folder / ".lock", "w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{folder}: another benchmark is running there; wait for it or choose another --out"
            ) from None
        yield


class StateFolder:
    """State files of the stages of one benchmark.

    Args:
        folder: Where they are.
        out: Folder of all outputs.
    """

    def __init__(self, folder: Path, out: Path) -> None:
        self.folder, self.out = folder, out
        self._static: dict[str, dict[str, str]] = {}

    def path(self, stage: Stage) -> Path:
        """Returns: The state file of a stage."""
        return self.folder / f"{stage.name}.json"

    def log(self, stage: Stage) -> Path:
        """Returns: Where the output of a stage goes."""
        return self.folder / f"{stage.name}.log"

    def read(self, stage: Stage) -> dict[str, Any]:
        """Returns: What the state file says; empty if there is none."""
        return read_json(self.path(stage))

    def static_parts(self, stage: Stage) -> dict[str, str]:
        """Returns: The hashes of command, config and code, made once a run."""
        if stage.name not in self._static:
            self._static[stage.name] = stage.static_parts(self.out)
        return self._static[stage.name]

    def parts(self, stage: Stage) -> dict[str, str]:
        """Returns: All parts of the fingerprint as they are now."""
        return {**self.static_parts(stage), **moving_parts(stage.inputs, stage.data)}

    def finished(self, stage: Stage) -> bool:
        """Returns: Whether the stage is done, for the same command, config, code, weights and data."""
        state = self.read(stage)
        if state.get("status") != "done" or not all(path.exists() for path in stage.makes):
            return False
        return state.get("fingerprint") == fingerprint.join(self.parts(stage))

    def why_open(self, stage: Stage) -> str:
        """Returns: Why a stage has to run, in words; empty if nothing was run before."""
        state = self.read(stage)
        before = state.get("parts")
        if not isinstance(before, Mapping):
            return ""
        if now := fingerprint.changed(before, self.parts(stage)):
            return f"{' and '.join(now)} changed"
        if state.get("status") == "failed":
            return f"it failed: {state.get('reason', 'no reason given')}"
        return "an output is missing" if state.get("status") == "done" else "it was stopped"

    def seconds(self, stage: Stage) -> float:
        """Returns: How long the finished stage took; 0 if unknown."""
        return float(self.read(stage).get("seconds", 0))

    def block(self, stage: Stage, need: str) -> None:
        """Note that a stage cannot run because one that it needs failed."""
        value = {**self.read(stage), "status": "blocked", "reason": f"{need} failed, which it needs"}
        write_json(self.path(stage), value)
