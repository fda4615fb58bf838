"""The shell scripts parse, refuse missing arguments with a usage line, and call the right program."""

import os
import signal
import stat
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = [*sorted(ROOT.glob("tools/*.sh")), ROOT / ".ci" / "run"]


def call(script, *args, **env):
    command = ["bash", str(script), *args]
    return subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True, check=False)


@pytest.fixture
def checkout(tmp_path):
    """A copy of the launchers beside stand-ins that print their arguments and a few variables."""
    (tmp_path / "tools").mkdir()
    for script in ROOT.glob("tools/*.sh"):
        (tmp_path / "tools" / script.name).write_text(script.read_text())
    programs = [tmp_path / ".venv" / "bin" / "python", *(tmp_path / "bin" / n for n in ("srun", "sbatch"))]
    for program in programs:
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text('#!/bin/bash\necho "$OMP_NUM_THREADS"\nprintf "%s\\n" "$@"\n')
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return tmp_path


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_parses_and_is_executable(script):
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0
    assert os.access(script, os.X_OK)


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("dist_train.sh", ()),
        ("dist_train.sh", ("config.py",)),
        ("dist_train.sh", ("config.py", "eight")),
        ("dist_train.sh", ("config.py", "0")),
        ("dist_probe.sh", ("config.py",)),
        ("dist_test.sh", ("config.py", "8")),
        ("dist_test.sh", ("config.py", "8", "file.pth")),
        ("slurm_train.sh", ("partition", "job")),
        ("torchrun.sh", ("8",)),
        ("torchrun.sh", ("none", "train.py")),
    ],
)
def test_usage_error(name, args):
    result = call(ROOT / "tools" / name, *args)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("usage: ")
    assert len(result.stderr.splitlines()) == 1


def test_dist_train_passes_nodes_and_arguments(checkout):
    env = {"NNODES": "4", "NODE_RANK": "2", "MASTER_ADDR": "host0", "PORT": "1234", "OMP_NUM_THREADS": "3"}
    result = call(checkout / "tools" / "dist_train.sh", "a config.py", "8", "--cfg-options", "a=b c", **env)
    assert result.returncode == 0, result.stderr
    threads, *args = result.stdout.splitlines()
    assert threads == "3"
    assert args[:2] == ["-m", "torch.distributed.run"]
    wanted = "--nnodes=4 --node_rank=2 --master_addr=host0 --master_port=1234 --nproc_per_node=8"
    assert args[2:7] == wanted.split()
    assert args[7] == "--max_restarts=0"
    train = str(checkout / "tools" / "train.py")
    assert args[-6:] == [train, "a config.py", "--launcher", "pytorch", "--cfg-options", "a=b c"]


CLEAN = dict.fromkeys(
    ("NNODES", "NODE_RANK", "MASTER_ADDR", "PORT", "OMP_NUM_THREADS", "SLURM_JOB_ID", "SLURM_ARRAY_TASK_ID"),
    "",
)


def test_a_meeting_point_with_restarts_resumes(checkout):
    env = CLEAN | {
        "NNODES": "3:4",
        "RDZV": "host0:29400",
        "MAX_RESTARTS": "5",
        "RDZV_ID": "x",
        "LOCAL_ADDR": "10.0.0.2",
    }
    args = call(checkout / "tools" / "dist_train.sh", "c.py", "8", "--seed", "1", **env).stdout.splitlines()[
        1:
    ]
    wanted = "--nnodes=3:4 --rdzv_backend=c10d --rdzv_endpoint=host0:29400 --rdzv_id=x --local_addr=10.0.0.2"
    assert args[2:10] == [*wanted.split(), "--rdzv_conf=is_host=0", "--nproc_per_node=8", "--max_restarts=5"]
    assert any(a.startswith("--signals_to_handle=") and a.endswith(",SIGUSR1") for a in args)
    assert args[-6:] == ["c.py", "--launcher", "pytorch", "--resume", "--seed", "1"]


def test_the_machine_with_the_address_of_the_meeting_point_hosts_it(checkout):
    env = CLEAN | {"RDZV": "10.0.0.1:29400", "LOCAL_ADDR": "10.0.0.1", "RDZV_CONF": "join_timeout=60"}
    assert (
        "--rdzv_conf=join_timeout=60,is_host=1"
        in call(checkout / "tools" / "dist_train.sh", "c.py", "8", **env).stdout.splitlines()
    )


@pytest.mark.parametrize("given", [("--resume", "f.pth"), ("--resume=f.pth",)])
def test_a_named_checkpoint_is_left_alone(checkout, given):
    result = call(checkout / "tools" / "dist_train.sh", "c.py", "8", *given, **CLEAN, MAX_RESTARTS="1")
    assert sum(a.startswith("--resume") for a in result.stdout.splitlines()) == 1


def test_dist_test_defaults(checkout):
    result = call(checkout / "tools" / "dist_test.sh", "c.py", "w.pth", "2", "--out", "o.json", **CLEAN)
    threads, *args = result.stdout.splitlines()
    assert int(threads) >= 1
    wanted = "--nnodes=1 --node_rank=0 --master_addr=127.0.0.1 --master_port=29500 --nproc_per_node=2"
    assert args[2:7] == wanted.split()
    program = str(checkout / "tools" / "test.py")
    assert args[-7:] == [program, "c.py", "w.pth", "--launcher", "pytorch", "--out", "o.json"]


def slurm_train(checkout, *words, **env):
    env = CLEAN | {"PATH": f"{checkout / 'bin'}:{os.environ['PATH']}"} | env
    return call(checkout / "tools" / "slurm_train.sh", "part", "name", "c{task}.py", *words, **env)


def test_slurm_asks_for_the_gpus(checkout):
    path = f"{checkout / 'bin'}:{os.environ['PATH']}"
    env = CLEAN | {"PATH": path, "GPUS": "4", "GPUS_PER_NODE": "", "CPUS_PER_TASK": "6"}
    result = call(checkout / "tools" / "slurm_train.sh", "part", "name", "c.py", "--resume", **env)
    threads, *args = result.stdout.splitlines()
    assert threads == "6"
    for option in ("--partition=part", "--job-name=name", "--gres=gpu:4", "--ntasks=4", "--cpus-per-task=6"):
        assert option in args
    assert args[-5:] == [str(checkout / "tools" / "train.py"), "c.py", "--launcher", "slurm", "--resume"]
    inside = call(
        checkout / "tools" / "slurm_train.sh", "part", "name", "c.py", **env | {"SLURM_JOB_ID": "7"}
    )
    assert "--partition=part" not in inside.stdout  # the job has its own


def test_a_queued_job_warns_requeues_and_calls_the_script_again(checkout):
    env = CLEAN | {"PATH": f"{checkout / 'bin'}:{os.environ['PATH']}", "SUBMIT": "1", "WARNING": "90"}
    result = call(checkout / "tools" / "slurm_train.sh", "part", "name", "a config.py", "--seed", "1", **env)
    args = result.stdout.splitlines()
    for option in ("--partition=part", "--requeue", "--open-mode=append", "--signal=B:USR1@90", "--ntasks=8"):
        assert option in args
    wrapped = args[-1]
    assert wrapped.startswith("--wrap=exec env -u SUBMIT -u ARRAY CMAE_MM_ROOT=")
    assert wrapped.endswith("part name a\\ config.py --seed 1 ")


@pytest.mark.parametrize(
    ("code", "told", "again"),
    [(75, False, True), (0, True, False), (2, True, False), (143, True, True), (1, False, False)],
)
def test_a_queued_job_goes_back_into_the_queue_when_it_was_stopped(checkout, code, told, again):
    """srun is a stand-in that, once told, notes the signal and leaves with the code."""
    srun, scontrol = checkout / "bin" / "srun", checkout / "bin" / "scontrol"
    srun.write_text(
        f"#!/bin/bash\ntrap 'echo told; exit {code}' USR1\necho \"args $*\"\n"
        + (f"touch {checkout}/ready; for _ in $(seq 300); do sleep 0.1; done\n" if told else f"exit {code}\n")
    )
    scontrol.write_text('#!/bin/bash\necho "scontrol $*"\n')
    scontrol.chmod(0o755)
    env = CLEAN | {
        "PATH": f"{checkout / 'bin'}:{os.environ['PATH']}",
        "SLURM_JOB_ID": "77",
        "CMAE_MM_QUEUED": "1",
    }
    words = ["bash", str(checkout / "tools" / "slurm_train.sh"), "part", "name", "c.py"]
    job = subprocess.Popen(words, env={**os.environ, **env}, stdout=subprocess.PIPE, text=True)
    if told:
        while not (checkout / "ready").exists():
            time.sleep(0.02)
        job.send_signal(signal.SIGUSR1)
    out, _ = job.communicate(timeout=60)
    assert job.returncode == code
    assert "c.py --launcher slurm --resume" in out
    assert ("told" in out) == told
    assert ("scontrol requeue 77\n" in out) == again


@pytest.mark.parametrize(
    ("code", "least", "restarts", "again"),
    [
        (74, "0", "", True),
        (137, "0", "9", True),
        (137, "0", "10", False),  # so often is enough
        (74, "600", "", False),  # it broke at once, and would again
        (2, "0", "", False),
        (1, "0", "", False),
    ],
)
def test_a_queued_job_that_lost_a_process_goes_back_into_the_queue(checkout, code, least, restarts, again):
    (checkout / "bin" / "srun").write_text(f"#!/bin/bash\nexit {code}\n")
    (checkout / "bin" / "scontrol").write_text('#!/bin/bash\necho "scontrol $*"\n')
    (checkout / "bin" / "scontrol").chmod(0o755)
    env = {"SLURM_JOB_ID": "70", "CMAE_MM_QUEUED": "1", "MIN_SECONDS": least, "SLURM_RESTART_COUNT": restarts}
    result = slurm_train(checkout, "--work-dir", "/w", **env)
    assert result.returncode == code
    assert ("scontrol requeue 70\n" in result.stdout) == again


def test_a_task_of_an_array_goes_back_into_the_queue_alone(checkout):
    """The number of a task may be that of the array; requeueing it would requeue all."""
    (checkout / "bin" / "srun").write_text("#!/bin/bash\nexit 75\n")
    (checkout / "bin" / "scontrol").write_text('#!/bin/bash\necho "scontrol $*"\n')
    (checkout / "bin" / "scontrol").chmod(0o755)
    env = {
        "SLURM_JOB_ID": "70",
        "SLURM_ARRAY_JOB_ID": "70",
        "SLURM_ARRAY_TASK_ID": "4",
        "CMAE_MM_QUEUED": "1",
    }
    result = slurm_train(checkout, "--work-dir", "/w/{task}", **env)
    assert result.returncode == 75
    assert "scontrol requeue 70_4\n" in result.stdout


def test_an_array_is_queued_with_a_folder_for_each_run(checkout):
    words = ("--work-dir", "/w/seed{task}", "--seed", "{task}")
    args = slurm_train(checkout, *words, SUBMIT="1", ARRAY="0-4%2").stdout.splitlines()
    assert "--array=0-4%2" in args
    assert args[-1].startswith("--wrap=exec env -u SUBMIT -u ARRAY ")
    for task in ("3", "12"):
        env = {
            "SLURM_JOB_ID": "70",
            "SLURM_ARRAY_JOB_ID": "70",
            "SLURM_ARRAY_TASK_ID": task,
            "CMAE_MM_QUEUED": "1",
        }
        run = slurm_train(checkout, *words, **env).stdout.splitlines()
        assert f"c{task}.py" in run
        assert run[-4:] == ["--work-dir", f"/w/seed{task}", "--seed", task]


@pytest.mark.parametrize(
    ("words", "env", "told"),
    [
        (("--work-dir", "/w/{task}"), {"ARRAY": "0-4"}, "set SUBMIT=1"),
        ((), {"ARRAY": "0-4", "SUBMIT": "1"}, "would write into one folder"),
        (("--work-dir", "/w"), {"ARRAY": "0-4", "SUBMIT": "1"}, "would write into one folder"),
    ],
)
def test_an_array_that_would_overwrite_itself_is_refused(checkout, words, env, told):
    result = slurm_train(checkout, *words, **env)
    assert (result.returncode, result.stdout) == (2, "")
    assert told in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_setup_refuses_an_unsuitable_python(tmp_path):
    """Without touching any environment: the interpreter is checked before .venv is made."""
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "setup.sh").write_text((ROOT / "tools" / "setup.sh").read_text())
    (tmp_path / "constraints.txt").touch()
    result = call(tmp_path / "tools" / "setup.sh", PYTHON="/no/such/python")
    assert result.returncode == 1
    assert "PYTHON=/no/such/python" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / ".venv").exists()
