"""Run one stage and write down how it ended: ``python -m cmae_mm.benchmark.runner JOB.json``.

It is a program of its own, so that a result is never lost with the program that waits for it: a benchmark that was
killed, or a batch job whose submitter is gone, ends in the same state file and the same record.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from types import FrameType
from typing import Any

from cmae_mm.benchmark import fingerprint
from cmae_mm.benchmark.failures import judge
from cmae_mm.benchmark.records import record_path, write_record
from cmae_mm.benchmark.stages import PROGRESS_FILE, Stage, moving_parts
from cmae_mm.benchmark.state import StateFolder, read_json, write_json

STOPPED = 130
_TAIL = 1 << 16
_PR_SET_PDEATHSIG = 1


def write_job(folder: StateFolder, stage: Stage, command: list[str], environment: Mapping[str, str]) -> Path:
    """Write down what a runner has to do.

    Args:
        folder: State files; the job lies beside them.
        stage: What to run.
        command: The command with what the launcher adds.
        environment: Variables that the launcher sets.

    Returns:
        The job file.
    """
    path = folder.folder / f"{stage.name}.job"
    value = {
        "name": stage.name,
        "command": command,
        "environment": dict(environment),
        "out": str(folder.out),
        "folder": str(folder.folder),
        "parts": folder.static_parts(stage),
        "makes": [str(p) for p in stage.makes],
        "inputs": [str(p) for p in stage.inputs],
        "data": str(stage.data) if stage.data else None,
        "work": str(stage.work) if stage.work else None,
        "result": str(stage.result) if stage.result else None,
        "record": stage.record,
    }
    write_json(path, value)
    return path


def left_behind(folder: StateFolder, stage: Stage) -> int | None:
    """Find a runner of a stage that goes on although the benchmark that started it is gone.

    Args:
        folder: State files.
        stage: Which stage.

    Returns:
        Its process number on this machine; 0 if it is on another; None if there is none.
    """
    path = folder.folder / f"{stage.name}.lock"
    try:
        with open(path) as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                host, _, number = handle.read().partition(" ")
                return int(number or 0) if host == socket.gethostname() else 0
    except OSError:
        pass
    return None


@dataclass
class Job:
    """What was read from a job file."""

    values: dict[str, Any]

    def __getitem__(self, key: str) -> Any:
        return self.values[key]

    def path(self, suffix: str) -> Path:
        """Returns: A file beside the job file."""
        return Path(self["folder"]) / f"{self['name']}{suffix}"

    @property
    def work(self) -> Path | None:
        """Its work dir."""
        return Path(self["work"]) if self["work"] else None

    def missing(self) -> str:
        """Returns: A file that it should have made and that is not there."""
        return next((p for p in self["makes"] if not Path(p).exists()), "")

    def parts(self) -> dict[str, str]:
        """Returns: All parts of the fingerprint as they are now."""
        data = Path(self["data"]) if self["data"] else None
        return {**self["parts"], **moving_parts(tuple(map(Path, self["inputs"])), data)}


def main(argv: list[str] | None = None) -> int:
    """Run a job.

    Args:
        argv: Words of the command line: the job file.

    Returns:
        Exit code of its program; 0 at once if the stage is finished already.
    """
    words = sys.argv[1:] if argv is None else argv
    job = Job(read_json(Path(words[0])))
    with _alone(job.path(".lock")) as lock:
        parts = job.parts()
        stamp = fingerprint.join(parts)
        before = read_json(job.path(".json"))
        if before.get("status") == "done" and before.get("fingerprint") == stamp and not job.missing():
            return 0
        _move_aside(job, before.get("fingerprint") == stamp)
        state = {"status": "started", "fingerprint": stamp, "parts": parts, "command": job["command"]}
        state["attempts"] = before.get("attempts", 0) + 1 if before.get("fingerprint") == stamp else 1
        write_json(job.path(".json"), state)
        return _run(job, state, lock)


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[int]:
    """Wait for a runner of the same stage that an earlier, killed benchmark left behind; gives the held file."""
    with open(path, "a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        handle.truncate(0)
        handle.write(f"{socket.gethostname()} {os.getpid()}")
        handle.flush()
        yield handle.fileno()


def _move_aside(job: Job, same: bool) -> None:
    """What an earlier, different version left in the work dir is kept under another name, never continued."""
    if not same:  # its number is no longer what the stage stands for
        record_path(Path(job["out"]), job["name"]).unlink(missing_ok=True)
    work = job.work
    if work is None or not work.exists():
        return
    if same:
        (work / PROGRESS_FILE).unlink(missing_ok=True)
        return
    number = 1
    while (stale := work.with_name(f"{work.name}.stale{number}")).exists():
        number += 1
    work.rename(stale)


def _die_with_parent() -> None:
    """In the child: end when the runner is killed, so that nobody writes into the work dir unseen."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _run(job: Job, state: dict[str, Any], lock: int) -> int:
    stopped = []

    def stop(signum: int, frame: FrameType | None) -> None:
        stopped.append(signum)
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)

    began = time.time()
    log = job.path(".log")
    with open(log, "ab") as handle:
        start = handle.tell()
        environment = {**os.environ, **job["environment"]}
        process = subprocess.Popen(
            job["command"],
            stdout=handle,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=environment,
            pass_fds=(lock,),  # held until the program itself has ended
            preexec_fn=_die_with_parent,
        )
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, stop)
        code = process.wait()
    if stopped and code != 0:  # somebody wants it to end: it stays open, and goes on the next time
        return STOPPED
    state |= {"seconds": round(time.time() - began, 1), "exit_code": code, "finished": _now()}
    missing = job.missing()
    if code == 0 and not missing:
        state["status"] = "done"
    else:
        failure = judge(code, _tail(log, start), missing)
        state |= {"status": "failed", "reason": failure.reason, "reason_kind": failure.kind}
    if job["record"] is not None:
        write_record(job.values, state)
    write_json(job.path(".json"), state)
    return 0 if state["status"] == "done" else code or 1


def _tail(path: Path, start: int) -> str:
    with open(path, "rb") as handle:
        size = handle.seek(0, os.SEEK_END)
        handle.seek(max(start, size - _TAIL))
        return handle.read().decode(errors="replace")


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


if __name__ == "__main__":
    sys.exit(main())
