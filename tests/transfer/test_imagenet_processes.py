"""Two processes extract features and look for neighbours together: the record is that of one."""

import json
import os
import subprocess
from pathlib import Path

from cmae_mm.checkpoints import sha256_of
from cmae_mm.transfer.probe import probe_main

ROOT = Path(__file__).parents[2]
ARCH = {"embed_dims": 48, "num_layers": 2, "num_heads": 3, "feedforward_channels": 96}
CONFIG = ROOT / "configs/mini/knn_vit-mini_imagenet.py"


def test_two_processes_find_what_one_finds(tmp_path, mini_data, call, backbone_file):
    words = ["--data-root", str(mini_data / "imagenet"), "--backbone", str(backbone_file), "--cfg-options"]
    words += ["train_dataloader.num_workers=0", "val_dataloader.num_workers=0", "probe.neighbours=[5,20]"]
    words += ["features.also=[avg-1]", *(f"model.backbone.arch.{name}={size}" for name, size in ARCH.items())]
    assert call(probe_main, CONFIG, "--work-dir", tmp_path / "one/run", *words) == 0
    command = [
        "bash",
        str(ROOT / "tools/dist_probe.sh"),
        str(CONFIG),
        "2",
        "--work-dir",
        str(tmp_path / "two/run"),
    ]
    environment = {**os.environ, "PORT": "29617", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*command, *words],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    one, two = (json.loads((tmp_path / name / "run/result.json").read_text()) for name in ("one", "two"))
    assert two["world_size"] == 2
    assert two["backbone_sha256"] == sha256_of(backbone_file)
    assert one["last"] == two["last"]
    assert one["features"]["train"]["cache"] == two["features"]["train"]["cache"]
    assert two["features"]["train"]["encoded"] == 40
