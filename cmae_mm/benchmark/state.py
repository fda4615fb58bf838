"""What is known of a stage from earlier runs: finished, stale or open."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cmae_mm.benchmark.stages import Stage
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
        code: Hash of the code, part of each fingerprint.
    """

    def __init__(self, folder: Path, code: str) -> None:
        self.folder = folder
        self.code = code

    def _path(self, stage: Stage) -> Path:
        return self.folder / f"{stage.name}.json"

    def log(self, stage: Stage) -> Path:
        """Returns: Where the output of a stage goes."""
        return self.folder / f"{stage.name}.log"

    def finished(self, stage: Stage) -> bool:
        """Returns: Whether the stage is done, for the same command, inputs and code."""
        state = read_json(self._path(stage))
        done = state.get("status") == "done" and state.get("fingerprint") == stage.fingerprint(self.code)
        return done and all(path.exists() for path in stage.makes)

    def seconds(self, stage: Stage) -> float:
        """Returns: How long the finished stage took; 0 if unknown."""
        return float(read_json(self._path(stage)).get("seconds", 0))

    def begin(self, stage: Stage) -> None:
        """Note that a stage starts; what an earlier, different version left is moved aside."""
        fingerprint = stage.fingerprint(self.code)
        before = read_json(self._path(stage)).get("fingerprint")
        if stage.progress and before != fingerprint and stage.progress.parent.exists():
            stale = stage.progress.parent.with_name(stage.progress.parent.name + ".stale")
            shutil.rmtree(stale, ignore_errors=True)
            stage.progress.parent.rename(stale)
        if stage.progress:
            stage.progress.unlink(missing_ok=True)
        write_json(self._path(stage), {"status": "started", "fingerprint": fingerprint})

    def end(self, stage: Stage, seconds: float, code: int) -> None:
        """Note how a stage ended."""
        status = "done" if code == 0 and all(path.exists() for path in stage.makes) else "failed"
        value = {"status": status, "fingerprint": stage.fingerprint(self.code), "seconds": round(seconds, 1)}
        write_json(self._path(stage), {**value, "exit_code": code, "command": list(stage.argv)})
