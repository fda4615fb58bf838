"""Runs a training step of the official CMAE code, from a checkout that the user has.

The code needs CUDA and several processes. Here it runs in one process on any device: a process group of one,
SyncBN as batch norm, and on the CPU ``Tensor.cuda`` does nothing while a step runs. Model, optimizer (one group for
each parameter) and moving average are built from its own config by its own classes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from _pretrain_recipes import SIZES, Setting, TrainingStep
from mmengine.config import Config

from cmae_mm.errors import UserError

RECIPE = "configs/pre-training/cmae/cmae_vit-base-p16_32xb128-coslr-300e_in1k.py"
NEEDED = ("cmae/models/algorithms/cmae.py", "cmae/core/hooks/momentum_update_hook.py", RECIPE)


def check_checkout(path: Path) -> None:
    """Look whether a folder holds the official code.

    Args:
        path: Folder of the checkout.

    Raises:
        UserError: It does not.
    """
    for name in NEEDED:
        if not (path / name).is_file():
            raise UserError(
                f"--official {path}: there is no {name}; "
                "give the folder of a checkout of github.com/ZhichengHuang/CMAE."
            )


@contextmanager
def official_code(path: Path, device: torch.device) -> Iterator[None]:
    """Make a checkout importable and start the process group that it asks for; undo both at the end.

    Args:
        path: Folder of the checkout.
        device: Where the step will run.
    """
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    sys.path.insert(0, str(path))
    try:
        yield
    finally:
        sys.path.remove(str(path))
        dist.destroy_process_group()


def official_step(path: Path, setting: Setting) -> TrainingStep:
    """Build the official training step; call and use it within `official_code`.

    Its loader makes two normalised float views of each image on the CPU. They are given ready-made, so that
    making them costs the step nothing.

    Args:
        path: Folder of the checkout.
        setting: How it is measured.

    Raises:
        UserError: The code does not import here.
    """
    side = SIZES[setting.size].image
    views = torch.randn(2, setting.batch, 3, side, side, device=setting.device)
    batch: dict[str, Any] = {"img": views[0], "img_t": views[1]}
    without_cuda = patch.object(torch.Tensor, "cuda", lambda tensor: tensor)
    around = (lambda: without_cuda) if setting.device.type == "cpu" else nullcontext
    try:
        return TrainingStep(Config.fromfile(path / RECIPE), batch, setting, around)
    except ImportError as error:
        raise UserError(f"--official {path}: its code does not import here: {error}.") from error
