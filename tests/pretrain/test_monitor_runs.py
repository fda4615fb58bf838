"""Looks at a model in training: real runs by the real command."""

import json
from glob import glob
from pathlib import Path

import cv2
import pytest
import torch

from cmae_mm.pretrain.curves import CurvesHook
from cmae_mm.pretrain.monitor import (
    KNN_FILE,
    KNNProbeHook,
    ReconstructionHook,
)


def train(work, data, looks):
    """Two epochs of the mini recipe, with or without someone looking."""
    from cmae_mm.data.masters import MasterImages
    from cmae_mm.engine.config import load_config, set_data_root
    from cmae_mm.engine.environment import adapt
    from cmae_mm.engine.hooks import PlainCheckpointHook
    from cmae_mm.engine.runner import SuiteRunner

    loader = {"batch_size": 20, "num_workers": 0, "persistent_workers": False}
    options = {f"train_dataloader.{k}": v for k, v in loader.items()}
    options |= {
        "train_cfg.max_epochs": 2,
        "model.backbone.arch.num_layers": 2,
        "default_hooks.logger.interval": 1,
    }
    cfg = load_config(glob("configs/mini/cmae_vit-mini*_pretrain.py")[0], options)
    masters = dict(type=MasterImages, data_root=cfg.data_root, size=64, crop="center")
    for name in ("knn", "reconstruction", "curves"):
        cfg.default_hooks.pop(name, None)
    if looks:
        cfg.default_hooks.update(
            knn=dict(
                type=KNNProbeHook,
                bank=dict(masters, split="train"),
                queries=dict(masters, split="val"),
                interval=1,
                k=5,
            ),
            reconstruction=dict(
                type=ReconstructionHook, images=dict(masters, split="val"), interval=1, count=2
            ),
            curves=dict(type=CurvesHook, interval=2),
        )
    set_data_root(cfg, data)
    cfg.work_dir = str(work)
    cfg.custom_hooks = [*(cfg.get("custom_hooks") or []), dict(type=PlainCheckpointHook)]
    adapt(cfg)
    SuiteRunner.from_cfg(cfg).train()
    return 0


@pytest.fixture(scope="module")
def runs(call, mini_data, tmp_path_factory):
    works = {looks: tmp_path_factory.mktemp("looks" if looks else "plain") for looks in (True, False)}
    for looks, work in works.items():
        assert call(lambda _, work=work, looks=looks: train(work, mini_data / "imagenet", looks)) == 0
    return works


def test_training_is_the_same_bit_for_bit_whether_looked_at_or_not(runs):
    looked, plain = (
        torch.load(runs[k] / "epoch_2.pth", weights_only=True)["state_dict"] for k in (True, False)
    )
    assert looked.keys() == plain.keys()
    for name in plain:
        assert torch.equal(looked[name], plain[name]), name


def test_a_run_leaves_what_the_docs_say(runs):
    work = runs[True]
    entries = json.loads((work / KNN_FILE).read_text())
    assert [e["epoch"] for e in entries] == [0, 1, 2]
    assert all(0 <= e["knn_top1"] <= 100 for e in entries)
    names = {p.name for p in (work / "pictures").iterdir()}
    assert names == {"epoch_0000.png", "epoch_0001.png", "epoch_0002.png", "curves.png"}
    picture = cv2.imread(str(work / "pictures/epoch_0002.png"))
    assert picture.std() > 20


def test_everything_logged_is_in_the_documentation_and_in_tensorboard(runs):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (log,) = runs[True].glob("*/vis_data/scalars.json")
    logged = {key for line in log.read_text().splitlines() for key in json.loads(line)} - {"step"}
    assert {"images_per_s", "data_wait", "memory_gib", "knn_top1", "loss", "con_acc", "feat_std"} <= logged
    text = Path("docs/monitoring.md").read_text()
    assert {name for name in logged if f"`{name}`" not in text} == set()
    (events,) = runs[True].glob("*/vis_data/events*")
    read = EventAccumulator(str(events))
    read.Reload()
    assert logged <= set(read.Tags()["scalars"])
    assert read.Tags()["images"] == ["reconstruction"]
