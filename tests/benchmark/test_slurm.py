"""Batch jobs: scripts by their words; the launcher against a fake batch system, and against a small real Slurm."""

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from cmae_mm.benchmark.launchers.slurm import SlurmLauncher
from cmae_mm.benchmark.launchers.slurm_script import resources, script
from cmae_mm.benchmark.recipe import Cost, Slurm
from cmae_mm.benchmark.retrying import Retries
from cmae_mm.benchmark.scheduler import Scheduler
from cmae_mm.benchmark.stages import Stage, tool
from cmae_mm.benchmark.state import StateFolder, read_json
from cmae_mm.errors import UserError

pytestmark = pytest.mark.faults


def training(gpus, program="train", words=("c.py",)):
    return Stage("s", "s", "transfer", (*tool(program, *words), "--cfg-options", "a=1"), cost=Cost(gpus=gpus))


def options(stage, words):
    text = script(resources(stage, words), [Path("/o/s.job")], Path("/o/s.slurm.log"), "n")
    return [line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH")]


def test_a_training_gets_a_task_for_each_gpu():
    words = Slurm(
        partition="big", account="me", gpus_per_node=8, cpus_per_gpu=12, hours=1.5, extra=("--qos=x",)
    )
    found = options(training(32), words)
    assert {"--nodes=4", "--ntasks-per-node=8", "--gres=gpu:8", "--cpus-per-task=12", "--requeue"} <= set(
        found
    )
    assert {"--partition=big", "--account=me", "--time=90", "--qos=x", "--job-name=n"} <= set(found)
    small = options(training(4), words)
    assert {"--nodes=1", "--ntasks-per-node=4", "--gres=gpu:4"} <= set(small)


def test_others_get_one_task():
    one = options(training(1), Slurm())
    assert {"--nodes=1", "--ntasks-per-node=1", "--gres=gpu:1"} <= set(one)
    none = options(training(0, "visualize_detections"), Slurm())
    assert not any("gres" in word or "partition" in word or "time" in word for word in none)
    assert "--cpus-per-task=1" in none
    probe = options(training(4, "probe"), Slurm())
    assert "--ntasks-per-node=1" in probe


def test_commands_under_slurm(tmp_path):
    launcher = SlurmLauncher(StateFolder(tmp_path, tmp_path), Slurm(cpus_per_gpu=6))
    words = launcher.command(training(16))
    assert words[:3] == ["srun", "--kill-on-bad-exit=1", "--cpus-per-task=6"]
    assert words[-4:] == ["--launcher", "slurm", "--cfg-options", "a=1"]
    assert launcher.command(training(1)) == list(training(1).argv)


def test_a_machine_without_slurm_is_told_apart(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    launcher = SlurmLauncher(StateFolder(tmp_path, tmp_path), Slurm())
    with pytest.raises(UserError, match="--launcher slurm: squeue cannot be run"):
        launcher.adopt([])


FAKE = """#!/usr/bin/env python3
# A batch system of one file: jobs start when what they depend on ended well, as plain programs.
import os, pathlib, subprocess, sys
root = pathlib.Path(os.environ["FAKE_SLURM"])
name, words = pathlib.Path(sys.argv[0]).name, sys.argv[1:]
def state(job):
    if (job / "cancelled").exists(): return "CANCELLED"
    if (job / "code").exists(): return "COMPLETED" if (job / "code").read_text().strip() == "0" else "FAILED"
    return "RUNNING" if (job / "pid").exists() else "PENDING"
def jobs(): return sorted((p for p in root.iterdir() if p.is_dir()), key=lambda p: [int(n) for n in p.name.split("_")])
def start():
    for job in jobs():
        if state(job) != "PENDING": continue
        before = [state(root / n) for n in (job / "needs").read_text().split()]
        if any(s in ("FAILED", "CANCELLED") for s in before): (job / "cancelled").touch()
        elif all(s == "COMPLETED" for s in before):
            code = "export SLURM_JOB_ID={} SLURM_ARRAY_TASK_ID={};".format(*job.name.split("_"), "")
            code += f"bash {job}/script; echo $? > {job}/code.part; mv {job}/code.part {job}/code"
            quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            process = subprocess.Popen(["bash", "-c", code], start_new_session=True, **quiet)
            (job / "pid").write_text(str(process.pid))
if name == "sbatch":
    number = 1 + max([0, *(int(job.name.split("_")[0]) for job in jobs())])
    needs = [w.split(":", 1)[1].replace(":", " ") for w in words if w.startswith("--dependency=afterok:")]
    text = pathlib.Path(words[-1]).read_text()
    last = int(text.split("--array=0-")[1].split()[0].split("%")[0]) if "--array=" in text else None
    for name in [str(number)] if last is None else [f"{number}_{i}" for i in range(last + 1)]:
        job = root / name
        job.mkdir()
        (job / "name").write_text(text.split("--job-name=")[1].splitlines()[0])
        (job / "script").write_text(text)
        (job / "needs").write_text(" ".join(needs))
    print(number)
elif name == "scancel":
    for word in words:
        (root / word / "cancelled").touch()
        if (root / word / "pid").exists(): os.killpg(int((root / word / "pid").read_text()), 15)
elif name == "squeue":
    for job in jobs():
        if state(job) in ("PENDING", "RUNNING"): print(f"{job.name}|{(job / 'name').read_text()}|{state(job)}")
elif name == "sacct":
    print(state(root / words[words.index("-j") + 1]))
start()
"""


@pytest.fixture
def fake(tmp_path, monkeypatch):
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sbatch", "squeue", "sacct", "scancel"):
        (folder / name).write_text(FAKE)
        (folder / name).chmod(0o755)
    jobs = tmp_path / "jobs"
    jobs.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SLURM", str(jobs))
    return jobs


@pytest.fixture(params=["fake", "real"])
def slurm(request, monkeypatch):
    if request.param == "fake":
        return request.getfixturevalue("fake")
    for name, value in request.getfixturevalue("small_slurm").items():
        monkeypatch.setenv(name, value)
    return None


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def scheduler(bench, stages, times=2):
    state = bench.state()
    launcher = SlurmLauncher(state, Slurm(), pause=0.2, grace=2.0)
    return Scheduler(stages, state, launcher, Retries(times, base=0.05))


def test_jobs_run_in_order_and_finished_ones_are_skipped(bench, slurm):
    stages = [
        bench.stage("a"),
        bench.stage("b", ["a"]),
        bench.stage("c", ["a"]),
        bench.stage("d", ["b", "c"]),
    ]
    first = scheduler(bench, stages)
    assert first.run()
    events = bench.events
    for stage in stages:
        for need in stage.needs:
            assert events.index(f"end {need}") < events.index(f"start {stage.name}")
    again = scheduler(bench, [*stages, bench.stage("e", ["d"])])
    assert again.run()
    assert bench.started[4:] == ["e"]


def test_failures_are_judged_and_dependents_do_not_run(bench, slurm):
    mark = bench.root / "second"
    once = f"p=pathlib.Path({str(mark)!r});first=not p.exists();p.touch();"
    once += "sys.exit('OSError: [Errno 28] No space left on device') if first else None"
    stages = [
        bench.stage("flaky", body=once),
        bench.stage("after", ["flaky"]),
        bench.stage("bad", body="sys.exit('ValueError: wrong')"),
        bench.stage("lost", ["bad"]),
    ]
    run = scheduler(bench, stages)
    assert not run.run()
    assert run.done == {"flaky", "after"}
    assert {name: f.reason for name, f in run.failed.items()} == {"bad": "ValueError: wrong"}
    assert run.blocked == {"lost": "bad"}
    assert bench.started.count("flaky") == 2
    assert bench.started.count("bad") == 1
    assert "lost" not in bench.started


def test_a_killed_benchmark_finds_its_jobs_again(bench, slurm):
    gate = bench.root / "go"
    body = f"[time.sleep(0.05) for _ in range(2000) if not os.path.exists({str(gate)!r})]"
    stages = [bench.stage("a", body=body), bench.stage("b", ["a"])]
    lost = scheduler(bench, stages)
    lost._start_ready()  # handed over, and then the program is gone
    # a look at the queue lets the fake one start its jobs
    wait_for(lambda: lost.launcher.adopt([]) == [] and (bench.root / "events").exists())
    found = scheduler(bench, stages)
    assert {s.name for s in found.launcher.adopt(stages)} == {"a", "b"}
    gate.touch()
    assert found.run()
    assert bench.started == ["a", "b"]


def test_a_job_that_somebody_cancels_is_no_loss_of_the_rest(bench, slurm):
    stages = [bench.stage("a", body="time.sleep(30)"), bench.stage("b")]
    run = scheduler(bench, stages)
    run._start_ready()
    wait_for(lambda: run.launcher.adopt([]) == [] and (bench.root / "events").exists())
    number = run.launcher._jobs["a"][1]
    subprocess.run(["scancel", number], check=True)
    assert not run.run()
    assert run.done == {"b"}
    assert run.failed["a"].reason == "the job was cancelled"
    assert read_json(run.state.path(stages[0]))["status"] == "failed"


def test_stop_cancels_what_was_handed_over(bench, slurm):
    stages = [bench.stage("a", body="time.sleep(60)"), bench.stage("b", ["a"])]
    run = scheduler(bench, stages)
    run._start_ready()
    assert set(run.launcher._jobs) == {"a", "b"}
    wait_for(lambda: run.launcher.adopt([]) == [] and (bench.root / "events").exists())
    run.launcher.grace = 60.0  # on a busy machine
    run.launcher.stop()
    assert run.launcher._jobs == {}
    assert scheduler(bench, stages).launcher.adopt(stages) == []


def runs(bench, count, body=""):
    """A stage, runs that need it, and a last one that needs them."""
    seeds = [f"seed{i}" for i in range(count)]
    return [
        bench.stage("first", body=body),
        *(bench.stage(s, ["first"], body) for s in seeds),
        bench.stage("last", seeds),
    ]


def numbers(run):
    return {name: number for name, (_, number) in run.launcher._jobs.items()}


def test_runs_that_ask_for_the_same_are_one_array(bench, slurm, capsys):
    run = scheduler(bench, runs(bench, 4))
    run._start_ready()
    found = numbers(run)
    array = found["seed0"].partition("_")[0]
    assert {name: found[name] for name in found if "seed" in name} == {
        f"seed{i}": f"{array}_{i}" for i in range(4)
    }
    assert "_" not in found["first"] + found["last"]
    assert f"job array {array}, 4 tasks: seed0 to seed3" in capsys.readouterr().out
    assert run.run()
    assert bench.started[0] == "first"
    assert sorted(bench.started[1:-1]) == ["seed0", "seed1", "seed2", "seed3"]
    assert bench.started[-1] == "last"


def test_a_failed_task_of_an_array_is_tried_again_alone(bench, slurm):
    mark = bench.root / "second"
    once = f"p=pathlib.Path({str(mark)!r});first=not p.exists();p.touch();"
    once += "sys.exit('OSError: [Errno 28] No space left on device') if first else None"
    stages = [bench.stage("a"), bench.stage("flaky", body=once), bench.stage("bad", body="sys.exit('wrong')")]
    run = scheduler(bench, [*stages, bench.stage("lost", ["bad"])])
    assert not run.run()
    assert run.done == {"a", "flaky"}
    assert [bench.started.count(name) for name in ("a", "flaky", "bad", "lost")] == [1, 2, 1, 0]


def test_a_killed_benchmark_finds_the_tasks_of_its_array_again(bench, slurm):
    gate = bench.root / "go"
    stages = runs(bench, 3, f"[time.sleep(0.05) for _ in range(2000) if not os.path.exists({str(gate)!r})]")
    lost = scheduler(bench, stages)
    lost._start_ready()
    before = numbers(lost)
    found = scheduler(bench, stages)
    assert {s.name for s in found.launcher.adopt(stages)} == set(before)
    assert numbers(found) == before
    gate.touch()
    assert found.run()
    assert sorted(bench.started) == sorted(s.name for s in stages)


def test_an_array_is_at_most_as_long_as_clusters_allow(bench, fake, monkeypatch):
    monkeypatch.setattr("cmae_mm.benchmark.launchers.slurm.LARGEST_ARRAY", 3)
    run = scheduler(bench, [bench.stage(f"s{i}") for i in range(7)])
    run._start_ready()
    assert sorted(numbers(run).values()) == ["1_0", "1_1", "1_2", "2_0", "2_1", "2_2", "3"]
    run.launcher.stop()


def test_an_array_runs_so_many_at_once_and_sizes_do_not_mix():
    jobs = [Path(f"/o/{i}.job") for i in range(5)]
    text = script(["--nodes=1"], jobs, Path("/o/x.%a.slurm.log"), "n", at_once=2)
    assert "#SBATCH --array=0-4%2\n" in text
    assert "jobs=(/o/0.job /o/1.job /o/2.job /o/3.job /o/4.job)" in text
    assert text.splitlines()[-1].endswith('cmae_mm.benchmark.runner "${jobs[$SLURM_ARRAY_TASK_ID]}"')
    assert resources(training(8), Slurm()) != resources(training(16), Slurm())


def test_jobs_that_are_killed_or_requeued_run_again(bench, small_slurm, monkeypatch):
    """What a lost node, preemption and the out-of-memory killer do, in a real Slurm."""
    for name, value in small_slurm.items():
        monkeypatch.setenv(name, value)
    wait = f"time.sleep(0 if pathlib.Path({str(bench.root / 'again')!r}).exists() else 300)"
    stages = [
        bench.stage("requeued", body=wait),
        bench.stage("killed", body=wait),
        bench.stage("end", ["killed"]),
    ]
    run = scheduler(bench, stages)
    run._start_ready()
    before = numbers(run)
    wait_for(lambda: (bench.root / "events").exists() and len(bench.started) == 2)
    (bench.root / "again").touch()
    subprocess.run(["scontrol", "requeue", before["requeued"]], check=True)
    pid = int((bench.root / "stages" / "killed.lock").read_text().split()[1])
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    assert run.run()
    assert sorted(bench.started) == ["end", "killed", "killed", "requeued", "requeued"]
