"""A tiny CMAE as the scripts of tools/ train it: its words, its environment, how far it is."""

import contextlib
import os
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "configs/mini/cmae_vit-mini-p8_pretrain.py"
PLAIN = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
PLAIN |= {"CMAE_MM_PYTHON": sys.executable}


def options(epochs, *more):
    """A tiny CMAE that saves after each iteration."""
    return [
        "--cfg-options",
        "default_hooks.knn=None",
        "default_hooks.reconstruction=None",
        "default_hooks.checkpoint.iter_interval=1",
        "default_hooks.checkpoint.interval=1000",
        "model.backbone.arch.num_layers=1",
        "train_dataloader.num_workers=1",
        f"train_cfg.max_epochs={epochs}",
        "param_scheduler.1.T_max=7",
        "param_scheduler.1.end=9",
        *more,
    ]


def iteration(work):
    with contextlib.suppress(OSError, ValueError):
        return int((work / "last_checkpoint").read_text().rpartition("_")[2].removesuffix(".pth"))
    return 0
