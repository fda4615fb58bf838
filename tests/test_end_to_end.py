"""The whole way through the house, for real, at the smallest size: every program of the demo once."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

from safetensors import safe_open

from cmae_mm.data.mini import MiniSizes, make_mini

RECIPE = """
name = "tiny"
title = "tiny"
seeds = [3]
[data]
root = "{data}"
[pretrain]
method = "CMAE"
config = "configs/mini/cmae_vit-mini-p8_pretrain.py"
data = "imagenet"
seconds = 10
options = ["train_dataloader.batch_size=8", "train_cfg.max_epochs=1"]
[[tasks]]
name = "linear"
title = "linear"
protocol = "tiny"
config = "configs/mini/vit-mini-p8_linear_imagenet.py"
data = "imagenet"
seconds = 10
metrics = {{ "accuracy/top1" = "top-1 (%)" }}
options = ["train_dataloader.batch_size=8", "train_cfg.max_epochs=1", "train_cfg.val_interval=1"]
[[tasks]]
name = "coco"
title = "coco"
protocol = "tiny"
config = "configs/mini/mask-rcnn_vitdet-mini_coco.py"
data = "coco"
seconds = 10
metrics = {{ "coco/bbox_mAP" = "box AP", "coco/segm_mAP" = "mask AP" }}
scale = 100.0
pictures = "detections"
options = ["train_dataloader.batch_size=2", "train_cfg.max_iters=2", "train_cfg.val_interval=2"]
[[tasks]]
name = "ade20k"
title = "ade20k"
protocol = "tiny"
config = "configs/mini/upernet_vit-mini_ade20k.py"
data = "ade20k"
seconds = 10
metrics = {{ "mIoU" = "mIoU (%)" }}
pictures = "segmentation"
options = ["train_dataloader.batch_size=2", "train_cfg.max_iters=2", "train_cfg.val_interval=2"]
"""


def demo(tmp_path: Path, recipe: Path) -> subprocess.CompletedProcess:
    command = [
        sys.executable,
        "-m",
        "cmae_mm",
        "demo",
        "--recipe",
        str(recipe),
        "--out",
        str(tmp_path / "out"),
    ]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=400, cwd=tmp_path, env=dict(os.environ)
    )


def test_demo_from_data_to_table_and_again(tmp_path):
    data = tmp_path / "data"
    make_mini(data, sizes=MiniSizes(2, 2, 6, 4, 6, 4), workers=1)
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(RECIPE.format(data=data))

    first = demo(tmp_path, recipe)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "| task" in first.stdout
    assert str(Path("out") / "report.md") in first.stdout

    out = tmp_path / "out"
    with safe_open(out / "backbones" / "cmae-seed3.safetensors", framework="pt") as handle:
        assert "blocks.5.mlp.fc2.weight" in handle.keys()  # noqa: SIM118
    records = json.loads((out / "records" / "records.json").read_text())["records"]
    # linear, box AP, mask AP and mIoU, each from random and pretrained weights
    assert len(records) == 8
    assert {(r["init"], r["seed"]) for r in records} == {("random", 3), ("CMAE", 3)}
    assert all(r["commit"] and r["config"] for r in records)
    assert all((r["backbone_sha256"] is None) == (r["init"] == "random") for r in records)
    with open(out / "table.csv") as handle:
        assert len(list(csv.DictReader(handle))) == 8
    pictures = {p.name for p in (out / "pictures").glob("*.png")}
    assert pictures == {"curves.png", "views-seed3.png", "coco-predictions.png", "ade20k-predictions.png"}
    assert (out / ".gitignore").read_text().splitlines()[-1] == "*"

    again = demo(tmp_path, recipe)
    assert again.returncode == 0
    assert "everything was finished already" in again.stdout
