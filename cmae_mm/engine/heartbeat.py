"""Signs of life of every process, and a watchdog that names the one that hangs.

Each process keeps ``heartbeat/rank<N>.json`` in the work dir; a thread writes it, so one that hangs still says so.
The folder must be one that all nodes see, or only the processes of a node watch each other.
"""

from __future__ import annotations

import faulthandler
import json
import os
import socket
import sys
import threading
import time
from collections import deque
from pathlib import Path
from types import FrameType
from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from cmae_mm.engine.lost_peers import HUNG
from cmae_mm.engine.run_metadata import write_json

FOLDER = "heartbeat"
# In the order of an iteration: where all stand in the same one, who hangs is the one that came least far.
PHASES = ("starting", "loading data", "training", "after the step", "evaluating", "finished")
_WAITING = (
    "torch/distributed/",
    "torch/autograd/graph.py",
    "mmengine/dist/",
)  # code that waits for other processes


def judge(beats: list[dict[str, Any]], now: float, silent: float) -> dict[str, Any] | None:
    """Choose the process that hangs; the others only wait for it.

    Args:
        beats: The last sign of life of each process.
        now: Seconds since 1970.
        silent: Seconds without any sign after which a process or its node is taken for dead.

    Returns:
        Its sign of life; None if no process is late.
    """
    running = [beat for beat in beats if beat["phase"] != "finished"]
    dead = [beat for beat in running if now - beat["time"] > silent]
    if dead:
        return min(dead, key=lambda beat: beat["time"])
    late = [beat for beat in running if beat["idle"] > beat["limit"]]
    if not late:
        return None
    # Of those in one iteration and phase, the one that is not inside a collective.
    last = min(
        running, key=lambda b: (b["iteration"], PHASES.index(b["phase"]), b["waits"], -b["idle"], b["rank"])
    )
    return last if last["idle"] > last["limit"] else None  # it may have the right to let the others wait


def accuse(beat: dict[str, Any], now: float, silent: float, folder: Path) -> str:
    """Say who hangs, where, and what to do.

    Args:
        beat: Of `judge`.
        now: Seconds since 1970.
        silent: As for `judge`.
        folder: Of the heartbeats.

    Returns:
        One sentence.
    """
    who = f"process {beat['rank']} ({beat['host']}, pid {beat['pid']})"
    where = f"in iteration {beat['iteration'] + 1}, {beat['phase']}"
    if now - beat["time"] > silent:
        what = f"{who} has given no sign of life for {now - beat['time']:.0f} s: it or its node is dead; it was {where}"
    else:
        what = f"{who} hangs: {beat['idle']:.0f} s {where}, at {beat['at']}"
    return f"{what}; stacks of all processes are in {folder}/rank*.stack; go on with --resume"


@HOOKS.register_module()
class HeartbeatHook(Hook):
    """Writes signs of life, and ends a run in which a process hangs; its exit code is 74.

    A process hangs if an iteration takes longer than ``least`` seconds and than ``factor`` times the longest of the
    last 50; outside of iterations, if nothing happens for ``other`` seconds.

    Args:
        interval: Seconds between two signs of life.
        least: Seconds.
        factor: Of the longest of recent iterations.
        other: Seconds, at the start, in evaluations and while saving.
        end: End the run. If false, only say what hangs.
    """

    priority = "HIGHEST"

    def __init__(
        self,
        interval: float = 10.0,
        least: float = 300.0,
        factor: float = 20.0,
        other: float = 1800.0,
        end: bool = True,
    ) -> None:
        self.interval, self.least, self.factor, self.other, self.end = interval, least, factor, other, end
        self._phase, self._iteration, self._since = "starting", 0, time.monotonic()
        self._began = self._since
        self._steps: deque[float] = deque(maxlen=50)
        self._done = threading.Event()
        self._thread: threading.Thread | None = None
        self._main = threading.main_thread().ident
        self._stacks: Any = None

    def before_train(self, runner: Any) -> None:
        """Start the thread."""
        self._folder = Path(runner.work_dir) / FOLDER
        self._folder.mkdir(parents=True, exist_ok=True)
        self._rank, self._world, self._started = runner.rank, runner.world_size, time.time()
        self._stacks = open(self._folder / f"rank{self._rank}.stack", "w")  # noqa: SIM115  (kept for the thread)
        self._move("starting", runner.iter)
        if not any(isinstance(hook, _IterationOver) for hook in runner.hooks):
            runner.register_hook(_IterationOver(self))
        self._thread = threading.Thread(target=self._live, daemon=True, name="heartbeat")
        self._thread.start()

    def before_train_epoch(self, runner: Any) -> None:
        """An iteration begins with its data."""
        self._move("loading data", runner.iter)
        self._began = time.monotonic()

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """The data is there."""
        self._move("training", runner.iter)

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """The step is done; other hooks follow, such as the one that saves."""
        now = time.monotonic()
        self._steps.append(now - self._began)
        self._began = now
        self._move("after the step", runner.iter)

    def iteration_over(self, runner: Any) -> None:
        """All hooks are done; the next batch is loaded."""
        self._move("loading data", runner.iter + 1)

    def after_train_epoch(self, runner: Any) -> None:
        """Hooks of the epoch follow, as after its last step."""
        self._move("after the step", runner.iter - 1)

    def before_val_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """An evaluation goes on, of the last step."""
        self._move("evaluating", runner.iter - 1)

    def after_val(self, runner: Any) -> None:
        """An evaluation is over."""
        self._move("loading data", runner.iter)
        self._began = time.monotonic()

    def close(self) -> None:
        """Say that this process is done; the runner calls this at the end of training, however it ends."""
        self._move("finished", self._iteration)
        self._done.set()
        if self._thread is not None:
            self._thread.join(timeout=5)
            self._thread = None
            self._stacks.close()

    def _move(self, phase: str, iteration: int) -> None:
        self._phase, self._iteration, self._since = phase, iteration, time.monotonic()

    def _limit(self) -> float:
        if self._phase in ("loading data", "training") and self._steps:
            return max(self.least, self.factor * max(self._steps))
        return max(self.least, self.other)

    def _live(self) -> None:
        """The thread: write, look at the others, until training is over."""
        while True:
            over = self._done.wait(self.interval)
            try:
                write_json(self._folder / f"rank{self._rank}.json", self._beat())
                if not over:
                    self._look()
            except OSError as error:  # a full disk stops checkpoints, not heartbeats
                print(f"heartbeat: {error}", file=sys.stderr)
            if over:
                return

    def _beat(self) -> dict[str, Any]:
        stack = _stack_of(self._main)
        return {
            "rank": self._rank,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "iteration": self._iteration,
            "phase": self._phase,
            "idle": round(time.monotonic() - self._since, 1),
            "limit": self._limit(),
            "time": time.time(),
            "waits": any(part in place for place in stack for part in _WAITING),
            "at": stack[0] if stack else "an unknown place",
        }

    def _look(self) -> None:
        now, silent = time.time(), max(self.least, 6 * self.interval)
        beats = [b for rank in range(self._world) if (b := self._read(rank)) is not None]
        guilty = judge(beats, now, silent)
        if guilty is None:
            return
        faulthandler.dump_traceback(self._stacks, all_threads=True)
        self._stacks.flush()
        alive = min((b["rank"] for b in beats if now - b["time"] <= silent), default=self._rank)
        if self._rank == alive:  # the others leave without a word, later, so that all stacks are written
            print(f"error: {accuse(guilty, now, silent, self._folder)}", file=sys.stderr, flush=True)
        if self.end:
            time.sleep(2 * self.interval if self._rank == alive else 3 * self.interval)
            os._exit(HUNG)

    def _read(self, rank: int) -> dict[str, Any] | None:
        """The sign of life of a process, if it is of this run and not of one before."""
        try:
            beat: dict[str, Any] = json.loads((self._folder / f"rank{rank}.json").read_text())
            return beat if beat["time"] >= self._started - self.interval else None
        except (OSError, ValueError, KeyError, TypeError):
            return None


class _IterationOver(Hook):
    """Tells `HeartbeatHook` when the last hook of an iteration has run; a hook has one priority only."""

    priority = "LOWEST"

    def __init__(self, heartbeat: HeartbeatHook) -> None:
        self.heartbeat = heartbeat

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        self.heartbeat.iteration_over(runner)


def _stack_of(thread: int | None) -> list[str]:
    """Places in the code of a thread, the innermost first."""
    frame: FrameType | None = sys._current_frames().get(thread or -1)
    places: list[str] = []
    while frame is not None and len(places) < 40:
        places.append(f"{frame.f_code.co_filename}:{frame.f_lineno} ({frame.f_code.co_name})")
        frame = frame.f_back
    return places
