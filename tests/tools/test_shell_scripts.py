"""The shell scripts parse, refuse missing arguments with a usage line, and call the right program."""

import os
import stat
import subprocess
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
    for program in (tmp_path / ".venv" / "bin" / "python", tmp_path / "bin" / "srun"):
        program.parent.mkdir(parents=True)
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
    train = str(checkout / "tools" / "train.py")
    assert args[7:] == [train, "a config.py", "--launcher", "pytorch", "--cfg-options", "a=b c"]


def test_dist_test_defaults(checkout):
    clean = dict.fromkeys(("NNODES", "NODE_RANK", "MASTER_ADDR", "PORT", "OMP_NUM_THREADS"), "")
    result = call(checkout / "tools" / "dist_test.sh", "c.py", "w.pth", "2", "--out", "o.json", **clean)
    threads, *args = result.stdout.splitlines()
    assert int(threads) >= 1
    wanted = "--nnodes=1 --node_rank=0 --master_addr=127.0.0.1 --master_port=29500 --nproc_per_node=2"
    assert args[2:7] == wanted.split()
    program = str(checkout / "tools" / "test.py")
    assert args[7:] == [program, "c.py", "w.pth", "--launcher", "pytorch", "--out", "o.json"]


def test_slurm_asks_for_the_gpus(checkout):
    path = f"{checkout / 'bin'}:{os.environ['PATH']}"
    env = {"PATH": path, "GPUS": "4", "GPUS_PER_NODE": "", "CPUS_PER_TASK": "6", "OMP_NUM_THREADS": ""}
    result = call(checkout / "tools" / "slurm_train.sh", "part", "name", "c.py", "--resume", **env)
    threads, *args = result.stdout.splitlines()
    assert threads == "6"
    for option in ("--partition=part", "--job-name=name", "--gres=gpu:4", "--ntasks=4", "--cpus-per-task=6"):
        assert option in args
    assert args[-5:] == [str(checkout / "tools" / "train.py"), "c.py", "--launcher", "slurm", "--resume"]


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
