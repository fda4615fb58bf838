"""tools/slurm_train.sh in a small real Slurm: jobs and arrays that are told to stop, and go on. Minutes long."""

import contextlib
import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from cluster_runs import CONFIG, PLAIN, ROOT, iteration, options

pytestmark = pytest.mark.distributed


class Queue:
    """Jobs of ``tools/slurm_train.sh`` in a Slurm; no try is too short to be repeated."""

    def __init__(self, slurm, folder):
        self.folder = folder
        self.env = {**PLAIN, **slurm, "SUBMIT": "1", "CPUS_PER_TASK": "1", "MASTER_ADDR": "127.0.0.1"}
        self.env["MIN_SECONDS"] = "0"

    def submit(self, work, words, processes, log, **env):
        """Queue a run; its number."""
        env = {
            **self.env,
            "GPUS": str(processes),
            "SBATCH_ARGS": f"--output={self.folder / log}",
            **env,
        }
        script = [
            "bash",
            str(ROOT / "tools/slurm_train.sh"),
            "all",
            "cmae",
            str(CONFIG),
            "--work-dir",
            str(work),
        ]
        done = subprocess.run([*script, *words], env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.split()[-1]

    def call(self, *words):
        return subprocess.run(words, env=self.env, capture_output=True, text=True, check=True).stdout.strip()

    def wait(self, condition, log, seconds):
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, (self.folder / log).read_text()[-4000:] + self.call("squeue")
            time.sleep(0.3)

    def wait_until_over(self, job, log):
        """A job that is not over would outlive its Slurm."""
        self.wait(lambda: job not in self.call("squeue", "-h", "--format=%A %F").split(), log, 60)


@pytest.fixture
def queue(tmp_path, small_slurm):
    return Queue(small_slurm, tmp_path)


def told(path):
    return path.read_text() if path.exists() else ""


def test_a_queued_job_saves_goes_back_into_the_queue_and_finishes(tmp_path, data, queue):
    """On two nodes, told to stop as Slurm does before a job's time is over; the same job starts again and goes on."""
    work, log = tmp_path / "work", tmp_path / "job.log"
    few = options(8, "train_dataloader.batch_size=4", "default_hooks.checkpoint.iter_interval=5")
    job = queue.submit(work, [*data, *few], 2, "job.log", GPUS_PER_NODE="1")
    queue.wait(lambda: iteration(work) >= 5, log, 300)
    queue.call("scancel", "--batch", "--signal=USR1", job)
    queue.wait(lambda: f"job {job} goes back into the queue" in told(log), log, 120)
    stopped = int(re.search(r"stopped by SIGUSR1 after iteration (\d+)", told(log))[1])
    queue.wait(lambda: (work / "result.json").exists(), log, 400)
    queue.wait_until_over(job, log)
    assert re.search(rf"resumed epoch: \d+, iter: {stopped}\b", told(log))
    assert json.loads((work / "result.json").read_text())["world_size"] == 2


def test_runs_of_an_array_have_folders_of_their_own_and_one_goes_back_alone(tmp_path, data, queue):
    works, logs = ([tmp_path / f"{name}{i}" for i in range(2)] for name in ("seed", "log"))
    few = options(12, "train_dataloader.batch_size=4", "default_hooks.checkpoint.iter_interval=5")
    words = ["--seed", "{task}", *data, *few]
    job = queue.submit(tmp_path / "seed{task}", words, 1, "log%a", ARRAY="0-1")
    # One of the two has the number of the array as its own: that one is told.
    queue.wait(lambda: all(iteration(work) >= 5 for work in works), logs[0], 400)
    ids = [
        re.search(r"JobId=(\d+)", queue.call("scontrol", "-o", "show", "job", f"{job}_{i}"))[1]
        for i in range(2)
    ]
    one = ids.index(job)
    queue.call("scancel", "--batch", "--signal=USR1", f"{job}_{one}")
    queue.wait(lambda: f"job {job}_{one} goes back into the queue" in told(logs[one]), logs[one], 120)
    queue.wait(lambda: all((work / "result.json").exists() for work in works), logs[one], 400)
    queue.wait_until_over(job, logs[one])
    assert len(re.findall(r"resumed epoch: \d+, iter: \d+", told(logs[one]))) == 1
    assert "resumed epoch" not in told(logs[1 - one])
    assert [json.loads((work / "result.json").read_text())["seed"] for work in works] == [0, 1]


def processes_of(node, slurm):
    """Numbers of the processes of a node: its slurmd, and the tasks that it runs with what watches over them."""
    conf, found = f"SLURM_CONF={slurm['SLURM_CONF']}".encode(), set()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            environment = (folder / "environ").read_bytes().split(b"\0")
            words = (folder / "cmdline").read_bytes().split(b"\0")
            if conf in environment and (words[:4] == [b"slurmd", b"-D", b"-N", node.encode()]):
                found.add(int(folder.name))
            if conf in environment and f"SLURMD_NODENAME={node}".encode() in environment:
                parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
                found |= {int(folder.name), int(parent)}
    return found


def test_a_node_that_dies_costs_a_few_iterations(tmp_path, data, queue, small_slurm):
    """The other node hears no more from it, or Slurm says so first: the job goes on with a third node."""
    work, log = tmp_path / "work", tmp_path / "job.log"
    few = options(60, "train_dataloader.batch_size=4", "env_cfg.dist_cfg.timeout=60")
    job = queue.submit(work, [*data, *few], 2, "job.log", GPUS_PER_NODE="1")
    queue.wait(lambda: iteration(work) >= 5, log, 300)
    shown = queue.call("scontrol", "-o", "show", "job", job)
    nodes = queue.call("scontrol", "show", "hostnames", re.search(r" NodeList=(\S+)", shown)[1]).split()
    lost = next(node for node in nodes if node != re.search(r"BatchHost=(\S+)", shown)[1])
    before = iteration(work)
    for pid in processes_of(lost, small_slurm):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    queue.wait(lambda: (work / "result.json").exists(), log, 400)
    queue.wait_until_over(job, log)
    resumed = int(re.search(r"resumed epoch: \d+, iter: (\d+)", told(log))[1])
    assert resumed >= before - 1
    assert lost not in queue.call("sinfo", "-h", "--states=idle", "--format=%N", "--Node").split()
