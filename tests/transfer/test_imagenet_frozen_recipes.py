"""Recipes of frozen encoders build at reduced size and take a step; tools/probe.py from words to the record."""

import json
import shutil
from glob import glob
from pathlib import Path

import pytest
import torch

import cmae_mm.compat  # noqa: F401  (before torchvision)

# isort: split

from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS, TASK_UTILS
from mmpretrain.structures import DataSample

from cmae_mm.data.loop_free_crop import LoopFreeResizedCrop
from cmae_mm.engine.config import load_config
from cmae_mm.transfer.lars import LARS
from cmae_mm.transfer.probe import probe_main

SIZES = {
    "s-p16": (384, 12, 6, 16),
    "b-p16": (768, 12, 12, 16),
    "l-p16": (1024, 24, 16, 16),
    "h-p14": (1280, 32, 16, 14),
}
TRAINED = sorted(glob("configs/imagenet/linear_*.py") + glob("configs/imagenet/linear-[md]*.py"))
CACHED = sorted(
    p for kind in ("knn", "linear-cached", "sweep", "logistic") for p in glob(f"configs/imagenet/{kind}*.py")
)
MINI = {
    kind: f"configs/mini/{kind}_vit-mini_imagenet.py"
    for kind in ("knn", "linear-cached", "sweep", "logistic")
}
TINY = ["model.backbone.arch.num_layers=4", "train_dataloader.num_workers=0", "val_dataloader.num_workers=0"]


def shrunk(cfg, width=24):
    """The same recipe with the depth of its encoder and a small width, on small images."""
    sizes = {"base": (12, 16), "deit-small": (12, 16), "large": (24, 16), "huge": (32, 14)}
    depth, patch = sizes[cfg.model.backbone.arch]
    assert cfg.model.backbone.patch_size == patch
    arch = dict(embed_dims=width, num_layers=depth, num_heads=2, feedforward_channels=2 * width)
    cfg.model.backbone.update(arch=arch, img_size=2 * patch)
    return depth, patch


def test_all_recipes_are_there():
    assert len(TRAINED) == 4 + 3
    assert len(CACHED) == 4 * 4 + 2


@pytest.mark.parametrize("path", TRAINED, ids=lambda p: Path(p).stem)
def test_trained_recipes_take_a_step(path):
    """Only the linear layer learns, with the optimizer and the batch that the recipe names."""
    init_default_scope("mmpretrain")
    cfg = load_config(path)
    name = path.split("_vit-")[1][:5]
    depth, patch = shrunk(cfg)
    assert (depth, patch) == SIZES[name][1::2]
    parts = len(cfg.model.backbone.get("parts", [0]))
    assert cfg.model.head.in_channels == parts * SIZES[name][0]
    cfg.model.head.update(in_channels=24 * parts)
    if cfg.model.neck:
        cfg.model.neck.update(in_channels=24)
    model = MODELS.build({**cfg.model, "data_preprocessor": cfg.data_preprocessor})
    model.init_weights()
    model.train()
    assert [n for n, p in model.named_parameters() if p.requires_grad] == ["head.fc.weight", "head.fc.bias"]
    lars = "lars" in path
    assert cfg.optim_wrapper.optimizer.type is (LARS if lars else torch.optim.SGD)
    assert cfg.auto_scale_lr.base_batch_size == (16384 if lars else 1024)
    cfg.optim_wrapper = dict(type="OptimWrapper", optimizer=cfg.optim_wrapper.optimizer)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    assert 0.005 < float(before["head.fc.weight"].std()) < 0.015
    assert not before["head.fc.bias"].any()
    samples = [DataSample().set_gt_label(k) for k in range(3)]
    data = {
        "inputs": [torch.randint(0, 255, (3, 2 * patch, 2 * patch)) for _ in samples],
        "data_samples": samples,
    }
    model.train_step(data, build_optim_wrapper(model, cfg.optim_wrapper))
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    statistics = (
        {f"neck.{k}" for k in ("running_mean", "running_var", "num_batches_tracked")}
        if cfg.model.neck
        else set()
    )
    assert changed == {"head.fc.weight", "head.fc.bias"} | statistics


@pytest.mark.parametrize("path", CACHED, ids=lambda p: Path(p).stem)
def test_cached_recipes_build(path):
    init_default_scope("mmpretrain")
    cfg = load_config(path)
    depth, patch = shrunk(cfg)
    assert (depth, patch) == SIZES[path.split("_vit-")[1][:5]][1::2]
    model = MODELS.build({**cfg.model, "data_preprocessor": cfg.data_preprocessor})
    probe = TASK_UTILS.build(cfg.probe)
    model.check_parts(probe.parts)
    found = model(torch.randn(1, 3, 2 * patch, 2 * patch), probe.parts)
    assert {tuple(v.shape) for v in found.values()} == {(1, 24)}
    names = [t.type.__name__ for t in cfg.train_dataloader.dataset.pipeline]
    assert ("RandomFlip" in names) == ("views" in path) == (cfg.features.views > 1)
    short = cfg.val_dataloader.dataset.pipeline[1].scale
    assert short == (224 if "logistic" in path else 256)


def test_protocols_share_no_key():
    """One key for each way of measuring: a table never mixes two."""
    keys = {}
    for path in TRAINED + CACHED:
        kind = Path(path).stem.split("_")[0]
        assert keys.setdefault(load_config(path).protocol, kind) == kind
    assert len(keys) == 3 + 4 + 2


def test_the_crop_is_one_draw():
    """Sides are cut to the image, where the usual crop draws again."""
    import numpy as np

    crop, image = LoopFreeResizedCrop(scale=8, crop_ratio_range=(0.9, 1.0)), np.zeros((40, 90, 3), np.uint8)
    np.random.seed(0)
    boxes = np.array([crop.rand_crop_params(image) for _ in range(500)])
    assert (boxes[:, 0] + boxes[:, 2] <= 40).all()
    assert (boxes[:, 1] + boxes[:, 3] <= 90).all()
    assert (boxes[:, 2] == 40).mean() > 0.9  # 0.9 of this area never fits at ratios up to 4 / 3
    np.random.seed(1)
    area, ratio = np.random.uniform(0.9, 1.0) * 3600, np.exp(np.random.uniform(np.log(3 / 4), np.log(4 / 3)))
    np.random.seed(1)
    assert crop.rand_crop_params(image)[2:] == (40, round((area * ratio) ** 0.5))


@pytest.fixture(scope="module")
def probed(mini_data, call, tmp_path_factory):
    """Run tools/probe.py in this process; all runs share a cache."""
    root = tmp_path_factory.mktemp("probes")

    def run(kind, name, *words, options=()):
        words = ["--data-root", mini_data / "imagenet", "--work-dir", root / name, *words]
        return call(probe_main, MINI[kind], *words, "--cfg-options", *TINY, *options), root / name

    return run


OPTIONS = {
    "knn": ["probe.neighbours=[2,5]", "probe.main=5"],
    "linear-cached": ["probe.epochs=3", "probe.warmup=1", "probe.val_interval=1", "probe.min_steps=0"],
    "sweep": ["probe.epochs=2", "probe.min_steps=0"],
    "logistic": ["probe.strengths=[0.1,1.0]"],
}


@pytest.mark.parametrize("kind", MINI)
def test_from_the_command_to_the_record(kind, probed, capsys):
    code, work = probed(kind, kind, "--seed", 3, options=OPTIONS[kind])
    assert code == 0
    record = json.loads((work / "result.json").read_text())
    shared = {
        "config",
        "protocol",
        "backbone_file",
        "backbone_sha256",
        "seed",
        "device",
        "world_size",
        "commit",
    }
    assert shared | {"versions", "history", "last", "best", "iterations", "seconds", "features"} <= set(
        record
    )
    assert record["seed"] == 3
    assert record["protocol"] == load_config(MINI[kind]).protocol
    assert record["last"] == record["history"][-1]
    assert 0 <= record["last"]["accuracy/top1"] <= record["best"]["accuracy/top1"] <= 100
    assert record["features"]["train"]["images"] == 40
    stamp = (work / "result.json").stat().st_mtime_ns
    capsys.readouterr()
    assert probed(kind, kind, "--seed", 3, options=OPTIONS[kind])[0] == 0
    assert "already finished: " in capsys.readouterr().out
    assert (work / "result.json").stat().st_mtime_ns == stamp
    assert probed(kind, kind, "--seed", 4, options=OPTIONS[kind])[0] == 2
    assert "holds another run" in capsys.readouterr().err


def test_few_labels_from_a_draw_and_from_its_list(probed):
    work = probed("knn", "few", options=[*OPTIONS["knn"], "subset.take=2-per-class", "subset.seed=5"])[1]
    first = json.loads((work / "result.json").read_text())
    assert first["protocol"] == "mini-knn@2-per-class"
    assert first["subset"]["images"] == first["knn"]["bank"] == 20
    names = (work / "subset.txt").read_text().splitlines()
    assert len(names) == 20
    again = probed("knn", "listed", options=[*OPTIONS["knn"], f"subset.take={work / 'subset.txt'}"])[1]
    second = json.loads((again / "result.json").read_text())
    assert second["last"] == first["last"]
    assert second["protocol"] == "mini-knn@subset.txt"


def test_only_chosen_images_are_encoded(mini_data, call, tmp_path):
    """Without a cache of all images; the result is the same as from one."""
    words = [
        "--data-root",
        mini_data / "imagenet",
        "--cfg-options",
        *TINY,
        *OPTIONS["knn"],
        "subset.take=2-per-class",
    ]
    found = []
    for name in ("alone", "whole"):
        cache = ["--cache", tmp_path / f"features-{name}", "--work-dir", tmp_path / name]
        if name == "whole":
            assert (
                call(
                    probe_main,
                    MINI["knn"],
                    *words[:2],
                    *cache[:2],
                    "--work-dir",
                    tmp_path / "all",
                    *words[2:-1],
                )
                == 0
            )
        assert call(probe_main, MINI["knn"], *words[:2], *cache, *words[2:]) == 0
        found.append(json.loads((tmp_path / name / "result.json").read_text()))
    assert [f["features"]["train"]["images"] for f in found] == [20, 40]
    assert found[0]["last"] == found[1]["last"]


def test_mistakes_end_in_a_sentence(mini_data, call, tmp_path, backbone_file, capsys):
    data = ["--data-root", mini_data / "imagenet", "--work-dir", tmp_path / "w"]
    for words, message in (
        (
            [glob("configs/mini/vit-mini*_linear_imagenet.py")[0], *data],
            "describes no probe of frozen features",
        ),
        ([MINI["knn"], *data, "--backbone", backbone_file], "use the config of the same architecture"),
        ([MINI["knn"], *data, "--cfg-options", "features.storage=int8"], "storage is 'int8'"),
        ([MINI["knn"], *data, "--cfg-options", "features.precision=half"], "precision is 'half'"),
        (
            [MINI["knn"], *data, "--cfg-options", "probe.parts=[cls-9]"],
            "cls-9 is before the first of 6 blocks",
        ),
        ([MINI["knn"], *data, "--cfg-options", "subset.take=many"], "is no share such as 1%"),
    ):
        assert call(probe_main, *words) == 2, message
        assert message in capsys.readouterr().err


def test_classes_must_agree(mini_data, call, tmp_path, capsys):
    """A class folder that the validation images lack would shift all labels behind it."""
    shutil.copytree(mini_data / "imagenet", tmp_path / "data")
    shutil.rmtree(sorted((tmp_path / "data/val").iterdir())[3])
    words = [
        "--data-root",
        tmp_path / "data",
        "--work-dir",
        tmp_path / "w",
        "--cfg-options",
        *TINY,
        *OPTIONS["knn"],
    ]
    assert call(probe_main, MINI["knn"], *words) == 2
    assert "val has other classes (9) than train (10)" in capsys.readouterr().err
