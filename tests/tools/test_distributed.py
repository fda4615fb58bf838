"""Two processes on one machine: the launcher, the process group, and one record for both."""

import json
import os
import subprocess
from pathlib import Path

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
    environment = {**os.environ, "PORT": "29611", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert json.loads((tmp_path / "work" / "result.json").read_text())["world_size"] == 2
    assert (tmp_path / "work" / "last.pth").exists()
    assert "2 processes on the CPU talk through gloo" in done.stdout + done.stderr
