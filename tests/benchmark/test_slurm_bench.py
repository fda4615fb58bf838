"""A whole benchmark in a small real Slurm, by the real command: seeds as a job array, then the table."""

import json
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.distributed

RECIPE = """
title = "tiny"
seeds = [1, 2]
backbones = ["random-mini"]
[data]
root = "{data}"
[[tasks]]
like = "mini-linear"
name = "linear"
options = ["train_dataloader.batch_size=8", "train_cfg.max_epochs=1", "train_cfg.val_interval=1"]
[slurm]
cpus_per_gpu = 1
"""


def test_seeds_are_an_array_and_become_a_table(tmp_path, mini_data, small_slurm):
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(RECIPE.format(data=mini_data))
    command = [sys.executable, "-m", "cmae_mm", "bench", str(recipe), "--out", str(tmp_path / "out")]
    command += ["--launcher", "slurm"]
    env = {**os.environ, **small_slurm}
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "job array 1, 2 tasks: ImageNet, linear probe, random init" in done.stdout
    records = [json.loads(path.read_text()) for path in (tmp_path / "out" / "records").glob("*.json")]
    assert sorted(record["seed"] for record in records) == [1, 2]
    assert all(record["status"] == "done" for record in records)
    assert "| ImageNet, linear probe |" in done.stdout
    again = subprocess.run(command, capture_output=True, text=True, timeout=100, cwd=tmp_path, env=env)
    assert "everything was finished already" in again.stdout
