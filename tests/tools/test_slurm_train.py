"""tools/slurm_train.sh in a small real Slurm: jobs and arrays that are told to stop, and go on. Minutes long."""

import json
import re
import subprocess
import time

import pytest
from cluster_runs import CONFIG, PLAIN, ROOT, iteration, options

pytestmark = pytest.mark.distributed


class Queue:
    """Jobs of ``tools/slurm_train.sh`` in a Slurm."""

    def __init__(self, slurm, folder):
        self.folder = folder
        self.env = {**PLAIN, **slurm, "SUBMIT": "1", "CPUS_PER_TASK": "1", "MASTER_ADDR": "127.0.0.1"}
        self.env |= {"SRUN_ARGS": "--gres=none"}

    def submit(self, work, words, processes, log, **env):
        """Queue a run; its number."""
        env = {
            **self.env,
            "GPUS": str(processes),
            "SBATCH_ARGS": f"--gres=none --output={self.folder / log}",
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
    """Told to stop as Slurm does before a job's time is over; the same job starts again and goes on."""
    work, log = tmp_path / "work", tmp_path / "job.log"
    few = options(8, "train_dataloader.batch_size=4", "default_hooks.checkpoint.iter_interval=5")
    job = queue.submit(work, [*data, *few], 2, "job.log")
    queue.wait(lambda: iteration(work) >= 5, log, 300)
    queue.call("scancel", "--batch", "--signal=USR1", job)
    queue.wait(lambda: f"job {job} goes back into the queue" in told(log), log, 120)
    stopped = int(re.search(r"stopped by SIGUSR1 after iteration (\d+)", told(log))[1])
    queue.wait(lambda: (work / "result.json").exists(), log, 400)
    queue.wait_until_over(job, log)
    assert f"resumed epoch: {stopped // 5}, iter: {stopped}" in told(log)
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
