"""Batch jobs: scripts by their words; the launcher against a fake batch system, and against a small real Slurm."""

import os
import shutil
import socket
import stat
import subprocess
import time
from pathlib import Path

import pytest

from cmae_mm.benchmark.launchers.slurm import SlurmLauncher, script
from cmae_mm.benchmark.recipe import Cost, Slurm
from cmae_mm.benchmark.retrying import Retries
from cmae_mm.benchmark.scheduler import Scheduler
from cmae_mm.benchmark.stages import Stage, tool
from cmae_mm.benchmark.state import StateFolder, read_json
from cmae_mm.errors import UserError


def training(gpus, program="train", words=("c.py",)):
    return Stage("s", "s", "transfer", (*tool(program, *words), "--cfg-options", "a=1"), cost=Cost(gpus=gpus))


def options(stage, words):
    text = script(stage, Path("/o/s.job"), Path("/o/s.slurm.log"), words, "n")
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
def jobs(): return sorted((p for p in root.iterdir() if p.is_dir()), key=lambda p: int(p.name))
def start():
    for job in jobs():
        if state(job) != "PENDING": continue
        before = [state(root / n) for n in (job / "needs").read_text().split()]
        if any(s in ("FAILED", "CANCELLED") for s in before): (job / "cancelled").touch()
        elif all(s == "COMPLETED" for s in before):
            code = f"bash {job}/script; echo $? > {job}/code.part; mv {job}/code.part {job}/code"
            quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            process = subprocess.Popen(["bash", "-c", code], start_new_session=True, **quiet)
            (job / "pid").write_text(str(process.pid))
if name == "sbatch":
    job = root / str(1 + len(jobs()))
    job.mkdir()
    needs = [w.split(":", 1)[1].replace(":", " ") for w in words if w.startswith("--dependency=afterok:")]
    text = pathlib.Path(words[-1]).read_text()
    (job / "name").write_text(text.split("--job-name=")[1].splitlines()[0])
    (job / "script").write_text(text)
    (job / "needs").write_text(" ".join(needs))
    print(job.name)
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


def needed(path):
    if not (found := shutil.which(path, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")):
        pytest.skip(f"{path} is not installed (Debian: slurmctld slurmd slurm-client munge)")
    return found


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A controller and one node on this machine, on ports of their own; nothing else is touched."""
    programs = {name: needed(name) for name in ("munged", "slurmctld", "slurmd", "sbatch", "squeue")}
    if os.geteuid():
        pytest.skip("slurmd needs root")
    root = tmp_path_factory.mktemp("slurm")
    for parent in (root, *root.parents):  # munged refuses a socket in a folder that others cannot enter
        if not parent.stat().st_mode & stat.S_IXOTH:
            parent.chmod(parent.stat().st_mode | stat.S_IXOTH | stat.S_IXGRP)
    for name in ("spool", "state", "munge"):
        (root / name).mkdir()
        (root / name).chmod(0o755)
    (root / "key").write_bytes(os.urandom(1024))
    (root / "key").chmod(0o600)
    host = socket.gethostname().split(".")[0]
    ports = [free_port(), free_port()]
    (root / "slurm.conf").write_text(
        f"ClusterName=small\nSlurmctldHost={host}\nSlurmUser=root\nSlurmdUser=root\nAuthType=auth/munge\n"
        f"AuthInfo=socket={root}/munge/socket\nStateSaveLocation={root}/state\nSlurmdSpoolDir={root}/spool\n"
        f"SlurmctldPidFile={root}/ctld.pid\nSlurmdPidFile={root}/d.pid\nSlurmctldLogFile={root}/ctld.log\n"
        f"SlurmdLogFile={root}/d.log\nProctrackType=proctrack/linuxproc\nTaskPlugin=task/none\n"
        f"SelectType=select/cons_tres\nSelectTypeParameters=CR_Core\nSlurmctldPort={ports[0]}\nSlurmdPort={ports[1]}\n"
        "JobRequeue=1\nSchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0\n"
        f"NodeName={host} CPUs={os.cpu_count()} State=UNKNOWN\nPartitionName=all Nodes={host} Default=YES State=UP\n"
    )
    munge = [f"--key-file={root}/key", f"--socket={root}/munge/socket", f"--pid-file={root}/munge/pid"]
    munge += [f"--log-file={root}/munge/log", f"--seed-file={root}/munge/seed", "--foreground"]
    environment = {**os.environ, "SLURM_CONF": str(root / "slurm.conf")}
    running = []
    for command in (
        [programs["munged"], *munge],
        [programs["slurmctld"], "-D"],
        [programs["slurmd"], "-D", "-N", host],
    ):
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        running.append(subprocess.Popen(command, env=environment, **quiet))
        time.sleep(0.5)
    try:
        end = time.monotonic() + 20
        while (
            "idle"
            not in subprocess.run(["sinfo", "-h"], env=environment, capture_output=True, text=True).stdout
        ):
            if time.monotonic() > end or any(p.poll() is not None for p in running):
                pytest.skip("a small Slurm does not start on this machine")
            time.sleep(0.3)
        yield root / "slurm.conf"
    finally:
        for process in reversed(running):
            process.terminate()
            process.wait(timeout=20)


def free_port():
    with socket.socket() as found:
        found.bind(("", 0))
        return found.getsockname()[1]


@pytest.fixture(params=["fake", "real"])
def slurm(request, monkeypatch):
    if request.param == "fake":
        return request.getfixturevalue("fake")
    monkeypatch.setenv("SLURM_CONF", str(request.getfixturevalue("cluster")))
    return None


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
    stages = [bench.stage("a", body="time.sleep(2)"), bench.stage("b", ["a"])]
    lost = scheduler(bench, stages)
    lost._start_ready()  # handed over, and then the program is gone
    deadline = time.monotonic() + 20
    while not (bench.root / "events").exists() and time.monotonic() < deadline:
        lost.launcher.adopt([])  # a look at the queue, which lets the fake one start its jobs
        time.sleep(0.1)
    found = scheduler(bench, stages)
    assert found.run()
    assert bench.started == ["a", "b"]


def test_a_job_that_somebody_cancels_is_no_loss_of_the_rest(bench, slurm):
    stages = [bench.stage("a", body="time.sleep(30)"), bench.stage("b")]
    run = scheduler(bench, stages)
    run._start_ready()
    deadline = time.monotonic() + 20
    while not (bench.root / "events").exists() and time.monotonic() < deadline:
        run.launcher.adopt([])
        time.sleep(0.1)
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
    run.launcher.stop()
    assert run.launcher._jobs == {}
    assert scheduler(bench, stages).launcher.adopt(stages) == []
