"""Run the stages of a plan: in the order of their needs, each as soon as there is room, so that a stop costs little."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from cmae_mm.benchmark.failures import INSIDE, OUTSIDE, Failure, judge, judge_slurm
from cmae_mm.benchmark.launchers.base import Ended, Launcher
from cmae_mm.benchmark.progress import ProgressLine, clock, fraction, remaining, total_remaining
from cmae_mm.benchmark.retrying import Retries
from cmae_mm.benchmark.stages import Stage
from cmae_mm.benchmark.state import StateFolder, write_json


class Scheduler:
    """Runs every stage whose needs are met; finished ones are skipped.

    Args:
        stages: In order; each comes after what it needs.
        state: What earlier runs finished.
        launcher: Where stages run.
        retries: When a stage that failed for an outside reason is tried again.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        state: StateFolder,
        launcher: Launcher,
        retries: Retries | None = None,
    ) -> None:
        self.stages, self.state, self.launcher = [launcher.timed(s) for s in stages], state, launcher
        self.retries = retries or Retries()
        self.line = ProgressLine(str(state.out))
        self.done: set[str] = set()
        for stage in self.stages:  # a result counts only while everything that it was made from counts
            if set(stage.needs) <= self.done and state.finished(stage):
                self.done.add(stage.name)
        self.failed: dict[str, Failure] = {}
        self.blocked: dict[str, str] = {}
        self._again: dict[str, float] = {}
        self._checked: set[str] = set()
        self._running: dict[str, tuple[Stage, float]] = {}

    def run(self) -> bool:
        """Run until nothing can be started any more.

        Returns:
            Whether every stage is finished.

        Raises:
            KeyboardInterrupt: After the running programs were stopped.
        """
        now = time.monotonic()
        for stage in self.launcher.adopt([s for s in self.stages if s.name not in self.done]):
            self._running[stage.name] = (stage, now)
            self.line.event(f"still running from before: {stage.title}")
        try:
            while self._start_ready() or self._running or self._again:
                time.sleep(self.launcher.pause)
                for ended in self.launcher.ended():
                    self._finish(ended)
                self._show()
        except BaseException:
            self.launcher.stop()
            raise
        return len(self.done) == len(self.stages)

    def _waiting(self) -> list[Stage]:
        busy = {*self._running, *self.done, *self.failed, *self.blocked}
        return [stage for stage in self.stages if stage.name not in busy]

    def _start_ready(self) -> bool:
        started = self._start_what_fits()
        for told in self.launcher.submit():
            self.line.event(told)
        return started

    def _start_what_fits(self) -> bool:
        started, crowded = False, False
        for stage in self._ready():
            if stage.name not in self._checked and set(stage.needs) <= self.done:
                self._checked.add(stage.name)  # its inputs are hashed once, not at every look
                if self.state.finished(stage):  # what it needed was made again, with the same content
                    self.done.add(stage.name)
                    return True
            # a stage that needs many GPUs is not passed for ever by those that need few
            if (crowded and stage.cost.gpus) or not self.launcher.has_room(stage):
                crowded = crowded or bool(stage.cost.gpus)
                continue
            self._start(stage)
            started = True
        return started

    def _ready(self) -> Iterator[Stage]:
        now = time.monotonic()
        for stage in self._waiting():
            given = self.done | set(self._running) if self.launcher.ahead else self.done
            if set(stage.needs) <= given and self._again.get(stage.name, 0.0) <= now:
                yield stage

    def _start(self, stage: Stage) -> None:
        self._again.pop(stage.name, None)
        remark = self.launcher.start(stage, [name for name in stage.needs if name in self._running])
        self._running[stage.name] = (stage, time.monotonic())
        about = f"about {clock(stage.seconds * self._speed())}"
        self.line.event(f"start  {stage.title} ({', '.join(filter(None, (about, remark)))})")

    def _finish(self, ended: Ended) -> None:
        stage = ended.stage
        if stage.name not in self._running:
            return
        began = self._running.pop(stage.name)[1]
        state = self.state.read(stage)
        if state.get("status") == "done" and all(path.exists() for path in stage.makes):
            self.done.add(stage.name)
            self.line.event(f"done   {stage.title} in {clock(time.monotonic() - began)}")
            return
        self._give_back(stage)
        failure = self._failure(ended, state)
        wait = self.retries.delay(stage.name, fraction(stage) or 0.0) if failure.kind == OUTSIDE else None
        where = f"(log: {self.state.log(stage)})"
        if wait is not None:
            self._again[stage.name] = time.monotonic() + wait
            self._checked.discard(stage.name)
            self.line.event(f"AGAIN  {stage.title} in {clock(wait)}: {failure.reason} {where}")
            return
        self.failed[stage.name] = failure
        self.line.event(f"FAILED {stage.title}: {failure.reason} {where}")
        self._note(stage, failure)
        self._block(stage)

    def _failure(self, ended: Ended, state: dict[str, object]) -> Failure:
        if state.get("status") == "failed" and not ended.state.startswith("CANCELLED"):
            return Failure(str(state.get("reason_kind", INSIDE)), str(state.get("reason", "")))
        log = self.state.log(ended.stage)
        text = log.read_text(errors="replace")[-(1 << 16) :] if log.exists() else ""
        # Slurm calls a job that was killed failed, too.
        if state.get("status") == "started" and ended.state in ("", "FAILED"):
            code = "" if ended.code is None else f" (exit code {ended.code})"
            return Failure(
                OUTSIDE, f"its program was stopped from outside{code} before it could say anything"
            )
        if ended.state:
            return judge_slurm(ended.state, text)
        return judge(ended.code or 0, text, "its state file")

    def _note(self, stage: Stage, failure: Failure) -> None:
        state = self.state.read(stage)
        if state.get("status") != "failed":
            value = {**state, "status": "failed", "reason": failure.reason, "reason_kind": failure.kind}
            write_json(self.state.path(stage), value)

    def _give_back(self, stage: Stage) -> None:
        """Stages that were handed over to run after this one are taken back."""
        waiting = [s.name for s, _ in self._running.values() if stage.name in s.needs]
        if waiting:
            self.launcher.stop(waiting)
            for name in waiting:
                other = self._running.pop(name)[0]
                self._give_back(other)

    def _block(self, stage: Stage) -> None:
        """What needs a failed stage cannot run."""
        for other in self.stages:
            lost = [n for n in other.needs if n in self.failed or n in self.blocked]
            if lost and other.name not in self.blocked and other.name not in self.done:
                self.blocked[other.name] = lost[0]
                self.state.block(other, lost[0])
                self.line.event(f"BLOCKED {other.title}: it needs {lost[0]}")

    def _show(self) -> None:
        if not self._running:
            return
        speed, now = self._speed(), time.monotonic()
        left = {s: remaining(s, now - began, speed) for s, began in self._running.values()}
        parts = []
        for stage, rest in left.items():
            part = fraction(stage)
            parts.append(f"{stage.title} {f'{part:.0%} ' if part is not None else ''}ETA {clock(rest)}")
        total = total_remaining(left, self._waiting(), max(1, len(left)), speed)
        more = f" | and {len(parts) - 3} more" if len(parts) > 3 else ""
        self.line.update(
            f"[{len(self.done)}/{len(self.stages)}] {' | '.join(parts[:3])}{more} || all done in {clock(total)}"
        )

    def _speed(self) -> float:
        finished = [s for s in self.stages if s.name in self.done and self.state.seconds(s)]
        estimate = sum(s.seconds for s in finished)
        # the estimate of the recipe counts like two minutes of measurement
        return (sum(self.state.seconds(s) for s in finished) + 120) / (estimate + 120)
