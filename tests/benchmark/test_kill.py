"""A benchmark that is killed at any moment and started again ends in the same table."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from cmae_mm.benchmark.state import read_json

# Stages that write to a work dir step by step and go on where they stopped, as trainings do. The result of a stage is
# a sum over what it read, so a result made of a half-written or a doubled input would differ.
PROGRAM = """
import json, os, sys, time, pathlib
work, out, *read = map(pathlib.Path, sys.argv[1:])
work.mkdir(parents=True, exist_ok=True)
turn = os.open(work / "turn", os.O_CREAT | os.O_EXCL) if not (work / "turn").exists() else None
owner = work / "owner"
alive = owner.exists() and pathlib.Path("/proc/" + owner.read_text()).exists() and owner.read_text() != str(os.getpid())
if alive: sys.exit("ValueError: two programs in one work dir")
owner.write_text(str(os.getpid()))
total = sum(json.loads(p.read_text())["value"] for p in read)
steps = work / "steps"
done = int(steps.read_text() or 0) if steps.exists() else 0
while done < 4:
    time.sleep(0.03)
    done += 1
    (work / "steps.part").write_text(str(done))
    os.replace(work / "steps.part", steps)
(work / "r.part").write_text(json.dumps({"value": total + done, "last": {"m": total + done}}))
os.replace(work / "r.part", out)
"""
BENCH = """
import sys
from pathlib import Path
from cmae_mm.benchmark.launchers.local import LocalLauncher
from cmae_mm.benchmark.recipe import Cost
from cmae_mm.benchmark.retrying import Retries
from cmae_mm.benchmark.scheduler import Scheduler
from cmae_mm.benchmark.stages import Stage
from cmae_mm.benchmark.state import StateFolder, locked
root = Path(sys.argv[1])
NEEDS = {"a": "", "b": "a", "c": "a", "d": "bc", "e": "d"}
def stage(name):
    result, read = root / f"{name}.json", [root / f"{n}.json" for n in NEEDS[name]]
    argv = (sys.executable, "-S", str(root / "program.py"), str(root / "runs" / name), str(result), *map(str, read))
    record = {"method": name, "protocol": "p", "seed": 0, "data": {}}
    return Stage(name, name, "transfer", argv, tuple(NEEDS[name]), (result,), root / "runs" / name, Cost(seconds=1),
                 inputs=tuple(read), result=result, record=record)
with locked(root):
    state = StateFolder(root / "stages", root)
    launcher = LocalLauncher(state, 2, [])
    launcher.pause = 0.02
    sys.exit(not Scheduler([stage(n) for n in NEEDS], state, launcher, Retries(2, base=0.05)).run())
"""


def start(root):
    return subprocess.Popen(
        [sys.executable, "-S", "-c", BENCH, str(root)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )


def table(root):
    """What a table is made of: the numbers of all records."""
    return {p.stem: read_json(p)["metrics"] for p in sorted((root / "records").glob("*.json"))}


def prepared(root):
    root.mkdir()
    (root / "program.py").write_text(PROGRAM)
    return root


@pytest.mark.parametrize("seed", range(3))
def test_killed_at_random_moments(tmp_path, seed):
    rng, root = random.Random(seed), prepared(tmp_path / "killed")
    for _ in range(4):
        process = start(root)
        time.sleep(rng.uniform(0.05, 1.0))
        process.send_signal(signal.SIGKILL)
        process.wait()
    said, _ = start(root).communicate(timeout=60)
    # a: 4; b and c: 4 + 4; d: 8 + 8 + 4; e: 20 + 4
    expected = {"a": 4, "b": 8, "c": 8, "d": 20, "e": 24}
    assert table(root) == {k: {"m": {"last": v, "best": v}} for k, v in expected.items()}, said
    assert not list(root.rglob("*.stale*"))
    for name in expected:
        state = read_json(root / "stages" / f"{name}.json")
        assert state["status"] == "done"
    process = start(root)
    said, _ = process.communicate(timeout=60)
    assert (process.returncode, said) == (0, "")  # nothing is left to do
    json.dumps(table(root))
