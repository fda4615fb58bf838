"""Two processes on one machine: the launcher, the process group, and one record for both."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch
from ports import free_port

from cmae_mm.checkpoints.safe_load import load_checkpoint

ROOT = Path(__file__).parents[2]


def test_dist_train_with_two_gloo_processes(tmp_path, mini_data):
    config = ROOT / "configs/mini/cmae_vit-mini-p8_pretrain.py"
    command = [
        "bash",
        str(ROOT / "tools/dist_train.sh"),
        str(config),
        "2",
        "--work-dir",
        str(tmp_path / "work"),
    ]
    command += ["--data-root", str(mini_data / "imagenet"), "--cfg-options"]
    command += ["train_dataloader.batch_size=4", "train_dataloader.num_workers=0", "train_cfg.max_epochs=1"]
    command += ["train_dataloader.persistent_workers=False"]
    environment = {**os.environ, "PORT": free_port(), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert json.loads((tmp_path / "work" / "result.json").read_text())["world_size"] == 2
    states = load_checkpoint(str(tmp_path / "work" / "last.pth"))["random_states"]
    assert len(states) == 2
    assert not torch.equal(states[0]["torch"], states[1]["torch"])  # each process draws masks of its own
    assert "2 processes on the CPU talk through gloo" in done.stdout + done.stderr


def _train(work, data, *words):
    config = ROOT / "configs/mini/cmae_vit-mini-p8_pretrain.py"
    command = ["bash", str(ROOT / "tools/dist_train.sh"), str(config), "2", "--work-dir", str(work), *words]
    command += ["--data-root", str(data / "imagenet"), "--cfg-options", "train_dataloader.batch_size=10"]
    command += ["train_dataloader.num_workers=0", "train_dataloader.persistent_workers=False"]
    command += ["default_hooks.checkpoint.interval=1", "default_hooks.knn=None", "train_cfg.max_epochs=2"]
    environment = {**os.environ, "PORT": free_port(), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


@pytest.mark.distributed
def test_split_and_whole_runs_write_and_read_the_same_checkpoints(tmp_path, mini_data):
    _train(tmp_path / "whole", mini_data)
    _train(tmp_path / "split", mini_data, "--shard", "recompute")
    files = {kind: tmp_path / kind / "epoch_1.pth" for kind in ("whole", "split")}
    states = {kind: load_checkpoint(str(file)) for kind, file in files.items()}
    assert states["whole"].keys() == states["split"].keys()
    optimizers = {kind: state["optimizer"]["state"] for kind, state in states.items()}
    assert optimizers["whole"].keys() == optimizers["split"].keys()
    straight = _weights(tmp_path / "whole" / "epoch_2.pth")
    step = (straight - _weights(files["whole"])).norm()
    # Sums are taken in another order, and AdamW makes much of the smallest gradients.
    assert (_weights(files["split"]) - _weights(files["whole"])).norm() < 0.05 * step
    for kind, words in (("whole", ["--shard"]), ("split", [])):  # each goes on from the other's file
        work = tmp_path / f"after-{kind}"
        _train(work, mini_data, "--resume", str(files[kind]), *words)
        assert (_weights(work / "epoch_2.pth") - straight).norm() < 0.1 * step


def _weights(path):
    state = load_checkpoint(str(path))["state_dict"]
    return torch.cat([v.flatten() for v in state.values() if v.is_floating_point()])
