"""Stages whose programs are one-liners that write down when they ran."""

import sys

import pytest

from cmae_mm.benchmark.launchers.local import LocalLauncher
from cmae_mm.benchmark.recipe import Cost
from cmae_mm.benchmark.retrying import Retries
from cmae_mm.benchmark.scheduler import Scheduler
from cmae_mm.benchmark.stages import Stage
from cmae_mm.benchmark.state import StateFolder


class Bench:
    """Makes stages and runs them; ``events`` tells what ran."""

    def __init__(self, root):
        self.root = root

    def stage(self, name, needs=(), body="", inputs=(), work=None, gpus=0, **more):
        made = self.root / f"{name}.out"
        code = (
            f"import os,sys,time,pathlib;log=open({str(self.root / 'events')!r},'a',buffering=1);"
            f"log.write('start {name}\\n');exec({body!r});"
            f"pathlib.Path({str(made)!r}).write_text('x');log.write('end {name}\\n')"
        )
        argv = (sys.executable, "-S", "-c", code)
        cost = Cost(seconds=1.0, gpus=gpus)
        return Stage(
            name, name, "transfer", argv, tuple(needs), (made,), work, cost, inputs=tuple(inputs), **more
        )

    def state(self):
        return StateFolder(self.root / "stages", self.root)

    def run(self, stages, jobs=2, retries=None, gpus=()):
        (self.root / "events").write_text("")
        state = self.state()
        launcher = LocalLauncher(state, jobs, list(gpus))
        launcher.pause = 0.02
        scheduler = Scheduler(stages, state, launcher, retries or Retries(2, base=0.05))
        return scheduler, scheduler.run()

    @property
    def events(self):
        return (self.root / "events").read_text().splitlines()

    @property
    def started(self):
        return [e.split()[1] for e in self.events if e.startswith("start")]


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)
