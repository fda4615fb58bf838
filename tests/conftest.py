"""Shared by all rooms: tiny data, tiny files, and the real command lines called in this process."""

import os
import signal
import sys
from glob import glob

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # several test processes: one thread each, in what they start too
    os.environ["OMP_NUM_THREADS"] = "1"

pytest_plugins = ["small_slurm", "file_server"]  # of tests/helpers
TINY_ARCH = {"width": 48, "depth": 2, "heads": 3, "hidden": 96, "patch": 8, "image_size": 32}
LOADER = [
    f"{phase}_dataloader.{field}"
    for phase in ("train", "val", "test")
    for field in ("num_workers=0", "persistent_workers=False", "batch_size=20")
]


@pytest.fixture(scope="module", autouse=True)
def _no_scope_is_left_behind():
    """Some tests set mmengine's default scope; the next file starts without one, whatever ran before it."""
    yield
    registry = sys.modules.get("mmengine.registry")
    if registry is not None:
        registry.DefaultScope._instance_dict.clear()


@pytest.fixture(scope="session")
def mini_data(tmp_path_factory):
    """The embedded data with 60 images for classification and a handful for the dense tasks."""
    from cmae_mm.data.mini import MiniSizes, make_mini

    out = tmp_path_factory.mktemp("mini") / "data"
    make_mini(out, workers=1, sizes=MiniSizes(4, 2, 8, 2, 4, 2))
    return out


def random_encoder(seed=0, **arch):
    """A whole encoder of random values, under timm names, and its header."""
    import torch

    from cmae_mm.checkpoints import BackboneHeader

    header = BackboneHeader(method="test", **{**TINY_ARCH, **arch})
    width, hidden = header.width, header.hidden
    shapes = {
        "pos_embed": (1, header.grid**2 + header.class_token, width),
        "patch_embed.proj.weight": (width, 3, header.patch, header.patch),
        "patch_embed.proj.bias": (width,),
        "norm.weight": (width,),
        "norm.bias": (width,),
    }
    if header.class_token:
        shapes["cls_token"] = (1, 1, width)
    for i in range(header.depth):
        linear = {"attn.qkv": (3 * width, width), "attn.proj": (width, width)}
        linear |= {"mlp.fc1": (hidden, width), "mlp.fc2": (width, hidden)}
        for part in ("norm1", "norm2"):
            shapes |= {f"blocks.{i}.{part}.weight": (width,), f"blocks.{i}.{part}.bias": (width,)}
        for part, shape in linear.items():
            shapes |= {f"blocks.{i}.{part}.weight": shape, f"blocks.{i}.{part}.bias": shape[:1]}
    generator = torch.Generator().manual_seed(seed)
    return {k: 0.1 * torch.randn(v, generator=generator) for k, v in shapes.items()}, header


@pytest.fixture(scope="session")
def make_encoder():
    """The function that draws an encoder; test modules cannot import this file."""
    return random_encoder


@pytest.fixture(scope="session")
def backbone_file(tmp_path_factory):
    """A backbone file of a tiny ViT."""
    from cmae_mm.checkpoints import save_backbone

    path = tmp_path_factory.mktemp("backbone") / "tiny.safetensors"
    save_backbone(path, *random_encoder())
    return path


@pytest.fixture(scope="session")
def call():
    """Run a main function as tools/ do and return the exit code, leaving no mmengine globals behind."""

    def run(main, *words):
        from cmae_mm.cli import guard

        before = signal.getsignal(signal.SIGTERM)
        try:
            with pytest.raises(SystemExit) as stopped:
                guard(lambda: main([str(w) for w in words]))
        finally:
            signal.signal(signal.SIGTERM, before)
            _forget_runs()
        return stopped.value.code

    return run


def _forget_runs():
    if "mmengine.runner" not in sys.modules:
        return
    from mmengine.logging import MessageHub, MMLogger
    from mmengine.registry import DefaultScope
    from mmengine.visualization import Visualizer

    for manager in (DefaultScope, MessageHub, MMLogger, Visualizer):
        manager._instance_dict.clear()


@pytest.fixture(scope="session")
def loader_options():
    """``--cfg-options`` for a tiny run without loader processes."""
    return LOADER


@pytest.fixture(scope="session")
def pretraining_run(mini_data, call, tmp_path_factory):
    """Work dir of CMAE trained for one epoch of two iterations by the real command."""
    from cmae_mm.engine.launch import train_main

    work = tmp_path_factory.mktemp("pretraining")
    options = ["train_cfg.max_epochs=1", "model.backbone.arch.num_layers=2", *LOADER[:3]]
    config = glob("configs/mini/cmae_vit-mini*_pretrain.py")[0]
    data = ("--data-root", mini_data / "imagenet", "--work-dir", work)
    assert call(train_main, config, *data, "--cfg-options", *options) == 0
    return work
