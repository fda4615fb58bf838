"""The watchdog names the process that hangs, not those that wait for it; lost connections end in a sentence."""

import json
import time
from types import SimpleNamespace

import pytest
from torch.distributed import DistBackendError

from cmae_mm.engine.heartbeat import HeartbeatHook, accuse, judge
from cmae_mm.engine.lost_peers import translate
from cmae_mm.errors import UserError

pytestmark = pytest.mark.faults
NOW = 1000.0


def beat(rank, iteration=7, phase="training", idle=1.0, waits=False, age=1.0, limit=10.0):
    return {
        "rank": rank,
        "host": f"node{rank}",
        "pid": 100 + rank,
        "iteration": iteration,
        "phase": phase,
        "idle": idle,
        "limit": limit,
        "time": NOW - age,
        "waits": waits,
        "at": f"file{rank}.py:1 (f)",
    }


WAITING = dict(idle=20.0, waits=True)
CASES = {
    "all is well": ([beat(0), beat(1)], None),
    "slow, but not yet late": ([beat(0, idle=9), beat(1, idle=9.5)], None),
    "behind by an iteration": ([beat(0, **WAITING), beat(1, iteration=6, idle=21)], 1),
    "no data": ([beat(0, **WAITING), beat(1, phase="loading data", idle=21), beat(2, **WAITING)], 1),
    "in the forward pass": ([beat(0, **WAITING), beat(1, **WAITING), beat(2, idle=20)], 2),
    "while saving": ([beat(0, phase="after the step", idle=30), beat(1, iteration=8, **WAITING)], 0),
    "stopped or dead": ([beat(0, **WAITING), beat(1, age=40), beat(2, iteration=6, idle=30)], 1),
    "finished ones are not missed": ([beat(0), beat(1, phase="finished", age=900)], None),
    "one may let the others wait": (
        [beat(0, phase="after the step", idle=30, limit=99), beat(1, iteration=8, **WAITING)],
        None,
    ),
    "all wait, one longest": ([beat(0, **WAITING), beat(1, idle=25, waits=True)], 1),
}


@pytest.mark.parametrize("case", CASES)
def test_names_the_one_that_hangs(case):
    beats, guilty = CASES[case]
    found = judge(beats, NOW, silent=30)
    assert (found and found["rank"]) == guilty
    assert judge(beats[::-1], NOW, silent=30) == found


def test_the_sentence_says_who_where_and_what_to_do(tmp_path):
    hanging = accuse(beat(3, idle=63), NOW, 30, tmp_path)
    for part in (
        "process 3 (node3, pid 103) hangs: 63 s in iteration 8, training, at file3.py:1 (f)",
        "--resume",
    ):
        assert part in hanging
    assert "no sign of life for 40 s" in accuse(beat(3, age=40), NOW, 30, tmp_path)


def test_a_hang_is_seen_and_its_stack_is_kept(tmp_path, capfd):
    stack = tmp_path / "heartbeat" / "rank0.stack"

    def a_place_to_hang():
        end = time.monotonic() + 30
        while not (stack.exists() and stack.stat().st_size) and time.monotonic() < end:
            time.sleep(0.1)
        time.sleep(0.3)  # until all of it is written

    runner = SimpleNamespace(work_dir=str(tmp_path), rank=0, world_size=2, iter=0, hooks=[])
    runner.register_hook = runner.hooks.append
    hook = HeartbeatHook(interval=0.05, least=1.5, factor=2, other=1.5, end=False)
    hook.before_train(runner)
    hook.before_train_epoch(runner)
    for runner.iter in range(5):
        hook.before_train_iter(runner, runner.iter)
        time.sleep(0.05)
        hook.after_train_iter(runner, runner.iter)
        runner.hooks[0].after_train_iter(runner, runner.iter)
    assert capfd.readouterr().err == ""
    runner.iter = 5
    hook.before_train_iter(runner, 5)
    a_place_to_hang()
    hook.close()
    error = capfd.readouterr().err.splitlines()[0]
    assert error.startswith("error: process 0 (")
    assert "in iteration 6, training, at " in error
    assert "(a_place_to_hang)" in error
    assert "a_place_to_hang" in stack.read_text()
    assert json.loads((tmp_path / "heartbeat" / "rank0.json").read_text())["phase"] == "finished"


RUNNER = SimpleNamespace(rank=1, world_size=4, iter=9, work_dir="work")


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (
            RuntimeError("[/x/gloo/transport/tcp/pair.cc:547] Connection closed by peer [10.0.0.1]:123"),
            "lost another",
        ),
        (RuntimeError("Timed out waiting 1800000ms for recv operation to complete"), "waited in vain"),
        (DistBackendError("NCCL communicator was aborted on rank 1."), "lost another"),
    ],
)
def test_errors_of_process_groups_become_a_sentence(error, says):
    found = translate(error, RUNNER)
    assert isinstance(found, UserError)
    assert str(found).startswith("process 1 of 4 on ")
    assert says in str(found)
    assert "in iteration 10" in str(found)


def test_other_errors_stay_what_they_are():
    assert translate(RuntimeError("shapes do not fit"), RUNNER) is None
    assert translate(RuntimeError("Timed out"), SimpleNamespace(world_size=1)) is None
