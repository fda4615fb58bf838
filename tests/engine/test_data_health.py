"""Broken images in a real run: told once, logged, and too many of them end it with one sentence."""

import itertools
import json
import shutil

import pytest
import torch
from mmengine.dataset import default_collate
from mmengine.model import BaseModel
from mmengine.runner import Runner

import cmae_mm.compat  # noqa: F401
from cmae_mm.data.masters import MasterImages
from cmae_mm.data.sampler import EpochSampler
from cmae_mm.engine.data_health import DataHealthHook
from cmae_mm.errors import UserError

NUMBERS = itertools.count()


class Toy(BaseModel):
    """Learns one number."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def forward(self, inputs, mode="loss", **others):
        return {"loss": (self.weight - inputs.float().mean() / 255) ** 2}


@pytest.fixture
def data(mini_data, tmp_path):
    return shutil.copytree(mini_data / "imagenet", tmp_path / "data")


def spoil(root, numbers):
    files = sorted((root / "train").glob("*/*.jpg"))
    for i in numbers:
        files[i].write_bytes(files[i].read_bytes()[:300])
    return [str(files[i]) for i in numbers]


@pytest.fixture
def train(data, tmp_path):
    """Train on the data for some epochs."""

    def run(epochs=2, workers=0, interval=50, hooks=True, **dataset):
        runner = Runner(
            model=Toy(),
            work_dir=str(tmp_path / "work"),
            train_dataloader=dict(
                batch_size=8,
                num_workers=workers,
                persistent_workers=workers > 0,
                sampler=dict(type=EpochSampler),
                collate_fn=dict(type=default_collate),
                dataset=dict(type=MasterImages, data_root=str(data), size=16, **dataset),
            ),
            train_cfg=dict(by_epoch=True, max_epochs=epochs),
            optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.1)),
            custom_hooks=[dict(type=DataHealthHook, interval=interval)] if hooks else [],
            default_hooks=dict(logger=dict(type="LoggerHook", interval=1)),
            randomness=dict(seed=0),
            experiment_name=f"{tmp_path.name}-{next(NUMBERS)}",
        )
        runners.append(runner)
        runner.train()

    runners = []
    yield run
    for runner in runners:  # the garbage collector would do it, but waits 5 s for each process
        if (iterator := runner.train_dataloader._iterator) is not None:
            iterator._shutdown_workers()


def warnings_of(tmp_path):
    (log,) = (tmp_path / "work").glob("*/*.log")
    return [line for line in log.read_text().splitlines() if "cannot read the image" in line]


def logged(tmp_path):
    (scalars,) = (tmp_path / "work").glob("*/vis_data/scalars.json")
    return [json.loads(line).get("broken_images") for line in scalars.read_text().splitlines()]


@pytest.mark.parametrize("workers", [0, 2])
def test_each_broken_image_is_told_once_and_counted(workers, data, train, tmp_path, capfd):
    names = spoil(data, [3, 17])
    train(workers=workers, max_broken=0.1)
    lines = warnings_of(tmp_path)
    assert len(lines) == 2
    assert {name for name in names for line in lines if name in line} == set(names)
    assert all("WARNING" in line and "another one takes its place" in line for line in lines)
    assert logged(tmp_path)[-1] == 2
    assert capfd.readouterr().err.count("cannot read") <= 2  # of the logger; the processes are silent


def test_good_data_is_not_mentioned(train, tmp_path):
    train(epochs=1)
    assert warnings_of(tmp_path) == []
    assert set(logged(tmp_path)) == {None}


def test_the_interval(data, train, tmp_path):
    spoil(data, range(3))
    train(epochs=1, interval=2, max_broken=0.5)
    counts = logged(tmp_path)
    assert counts[0] is None  # nobody looked yet
    assert counts[-1] == 3


@pytest.mark.parametrize("workers", [0, 2])
def test_when_all_are_broken_the_run_stops_with_one_sentence(workers, data, train):
    names = spoil(data, range(40))
    with pytest.raises(UserError) as error:
        train(workers=workers, max_broken=0.05)
    sentence = str(error.value)
    assert "of 40 images cannot be read, and only 2 may" in sentence
    assert sum(name in sentence for name in names) == 3
    assert "Traceback" not in sentence
    assert "\n" not in sentence


class Other:
    """Another process of the run, which met broken images of its own."""

    def __init__(self, found):
        self.found = found

    def __call__(self, own):
        return [own, {i: f"cannot read the image {i}" for i in self.found}]


def test_what_other_processes_met_counts(data, train, tmp_path, monkeypatch):
    names = spoil(data, [3])
    monkeypatch.setattr("cmae_mm.engine.data_health.all_gather_object", Other([3, 30]))
    train(epochs=1, max_broken=0.05)
    lines = warnings_of(tmp_path)
    assert len(lines) == 2  # image 3 once, although both met it
    assert names[0] in lines[0]
    assert logged(tmp_path)[-1] == 2

    monkeypatch.setattr("cmae_mm.engine.data_health.all_gather_object", Other([5, 30]))
    with pytest.raises(UserError, match=rf"3 of 40 images cannot be read, and only 2 may .* {names[0]}"):
        train(epochs=1, max_broken=0.05)


def test_an_image_that_can_be_read_again(data, train, tmp_path, monkeypatch):
    monkeypatch.setattr(MasterImages, "problem", lambda self, i: None)
    spoil(data, [3])
    train(epochs=1)
    (log,) = (tmp_path / "work").glob("*/*.log")
    assert "but now can: the storage is not reliable" in log.read_text()


def test_other_data_is_left_alone():
    from types import SimpleNamespace

    hook = DataHealthHook()
    runner = SimpleNamespace(train_dataloader=SimpleNamespace(dataset=[1, 2]))
    hook.before_train(runner)
    hook.after_train_iter(runner, 49)


def test_without_the_hook_the_process_that_finds_it_tells(data, train, capfd):
    names = spoil(data, [3])
    train(epochs=2, hooks=False)
    lines = [line for line in capfd.readouterr().err.splitlines() if "cannot read" in line]
    assert len(lines) == 1
    assert lines[0].startswith(f"warning: cannot read the image {names[0]}")


def test_data_of_hooks_is_looked_at_before_the_run(data):
    from mmengine.config import Config

    from cmae_mm.engine.preflight import check_datasets

    def config(split):
        images = dict(type=MasterImages, data_root=str(data), size=16)
        probe = dict(type="KNNProbeHook", interval=3, queries=dict(images, split=split))
        return Config(dict(train_dataloader=dict(dataset=images), default_hooks=dict(knn=probe, other=None)))

    check_datasets(config("val"), ("train", "val"))
    with pytest.raises(UserError, match=r"there are no images in .*folder test/"):
        check_datasets(config("test"), ("train", "val"))
    check_datasets(config("test"), ("test",))
