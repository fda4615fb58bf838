"""The whole way through the house, for real, at the smallest size: every program of the demo once."""

import json
import os
import subprocess
import sys
from pathlib import Path

from safetensors import safe_open

from cmae_mm.data.mini import MiniSizes, make_mini
from cmae_mm.engine.config import load_config

RECIPE = """
title = "tiny"
seeds = [3]
backbones = [
    "random-mini",
    {{ like = "cmae-mini", name = "own", options = ["train_dataloader.batch_size=8", "train_cfg.max_epochs=1"] }},
]
[data]
root = "{data}"
[[tasks]]
like = "mini-linear"
name = "linear"
options = ["train_dataloader.batch_size=8", "train_cfg.max_epochs=1", "train_cfg.val_interval=1"]
[[tasks]]
like = "mini-coco"
name = "coco"
options = ["train_dataloader.batch_size=2", "train_cfg.max_iters=2", "train_cfg.val_interval=2"]
[[tasks]]
like = "mini-ade20k"
name = "ade20k"
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
    assert str(Path("out") / "report" / "report.html") in first.stdout

    out = tmp_path / "out"
    with safe_open(out / "backbones" / "own-seed3.safetensors", framework="pt") as handle:
        assert "blocks.5.mlp.fc2.weight" in handle.keys()  # noqa: SIM118
    records = [json.loads(p.read_text()) for p in (out / "records").glob("*.json")]
    # the pretraining; linear, COCO and ADE20K, each from random and pretrained weights
    assert len(records) == 7
    assert {(r["method"], r["seed"], r["status"]) for r in records} == {
        ("random init", 3, "done"),
        ("CMAE", 3, "done"),
    }
    assert all(r["commit"] and r["config"] and r["peak_memory_bytes"] > 1e8 for r in records)
    transfers = [r for r in records if r["kind"] == "transfer"]
    assert all((r["backbone_sha256"] is None) == (r["method"] == "random init") for r in transfers)
    assert all(set(r["main_metrics"]) <= set(r["metrics"]) for r in transfers)
    for metric in ("box AP", "mask AP", "mIoU (%)", "top-1 (%)"):
        assert first.stdout.count(metric) >= 2
    pictures = {p.name for p in (out / "pictures").glob("*.png")}
    assert pictures == {"views-own-seed3.png", "coco-own.png", "ade20k-own.png"}
    # what each run wrote down as its config is one, for all three libraries
    written = [p for p in out.glob("**/*.py") if "vis_data" not in p.parts]
    assert len(written) >= 7
    for path in written:
        cfg = load_config(path)
        assert isinstance(cfg.model.type, type), path
        assert all(isinstance(hook["type"], type) for hook in cfg.custom_hooks), path
    assert (out / ".gitignore").read_text().splitlines()[-1] == "*"

    again = demo(tmp_path, recipe)
    assert again.returncode == 0
    assert "everything was finished already" in again.stdout
