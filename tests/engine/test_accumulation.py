"""Gradient accumulation: exact arithmetic, the same optimizer steps and learning rates as one large batch."""

import json
from glob import glob
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from torch import nn
from torch.utils.data import Dataset

from cmae_mm.engine.accumulation import (
    AccumulatingEpochLoop,
    AccumulatingIterLoop,
    GroupedLoader,
    accumulate,
    joined,
    keeps_its_batch,
    mean_of_logs,
    planned_processes,
)
from cmae_mm.errors import UserError


def _config(batch_size=2, base=16, **train):
    train = train or dict(type=IterBasedTrainLoop, max_iters=4)
    cfg = dict(train_dataloader=dict(batch_size=batch_size), train_cfg=train)
    return Config(cfg | (dict(auto_scale_lr=dict(enable=True, base_batch_size=base)) if base else {}))


@pytest.mark.parametrize(("processes", "count"), [(1, 8), (2, 4), (4, 2)])
def test_fewer_processes_accumulate_more(processes, count):
    cfg = _config()
    words = accumulate(cfg, "auto", processes)
    assert cfg.train_cfg.accumulate == count
    assert cfg.train_cfg.type is AccumulatingIterLoop
    assert cfg.train_cfg.max_iters == 4
    # mmengine compares the images of one forward pass: 2 x processes
    assert cfg.auto_scale_lr.base_batch_size == 2 * processes
    noun = "process" if processes == 1 else "processes"
    assert words.startswith(f"batch 16 = {processes} {noun} x 2 images x {count} accumulated")
    assert f"at most {2 * processes} of them" in words


def test_nothing_changes_where_the_batch_fits():
    cfg = _config()
    assert accumulate(cfg, "auto", 8) == "batch 16 = 8 processes x 2 images x 1 accumulated"
    assert cfg.train_cfg.type is IterBasedTrainLoop


def test_a_told_number_that_makes_another_batch_says_so():
    cfg = _config()
    assert "not the recipe's 16: the learning rate is scaled by 0.5" in accumulate(cfg, 4, 1)
    assert 2 / cfg.auto_scale_lr.base_batch_size == 0.5


@pytest.mark.parametrize(
    ("options", "processes", "message"),
    [
        (dict(), 3, "16 is no multiple of 3 processes x 2 images; start 1 or 2 or 4 or 8 processes"),
        (dict(batch_size=32), 1, "no multiple of 1 processes x 32 images; change"),
        (dict(base=None), 1, "names no batch size to keep"),
        (dict(batch_size=None), 1, "no train_dataloader.batch_size"),
        (dict(type=dict, max_iters=4), 1, "train_cfg.type is dict"),
    ],
)
def test_what_is_impossible_is_refused(options, processes, message):
    with pytest.raises(UserError, match=message):
        accumulate(_config(**options), "auto", processes)


def test_loops_by_epoch_and_processes_of_launchers(monkeypatch):
    cfg = _config(by_epoch=True, max_epochs=3)
    accumulate(cfg, "auto", 1)
    assert cfg.train_cfg.type is AccumulatingEpochLoop
    assert "by_epoch" not in cfg.train_cfg
    assert planned_processes("none") == 1
    for launcher, name in (("pytorch", "WORLD_SIZE"), ("slurm", "SLURM_NTASKS")):
        monkeypatch.setenv(name, "4")
        assert planned_processes(launcher) == 4


def test_batches_are_joined_and_logs_averaged():
    batches = [dict(inputs=[1, 2], x=torch.ones(2, 3), n="a"), dict(inputs=[3], x=torch.zeros(1, 3), n="b")]
    whole = joined(batches)
    assert whole["inputs"] == [1, 2, 3]
    assert whole["x"].shape == (3, 3)
    assert whole["n"] == "a"
    assert mean_of_logs([dict(loss=1.0), dict(loss=3.0)]) == dict(loss=2.0)
    with pytest.raises(UserError, match="an epoch has only 3"):
        GroupedLoader(torch.utils.data.DataLoader(range(3)), 4)


class Numbers(Dataset):
    def __len__(self):
        return 24

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        return dict(inputs=torch.randn(4, generator=generator), target=torch.randn(1, generator=generator))


class Line(BaseModel):
    def __init__(self):
        super().__init__()
        self.line = nn.Linear(4, 1)

    def forward(self, inputs, target, mode="tensor"):
        return dict(loss=(self.line(inputs) - target).square().mean())


def _train(work, batch_size, accumulated, by_epoch, resume_at=None):
    """Train; return weights and the learning rate of each iteration."""
    rates = []

    class Rates(Runner):
        def call_hook(self, name, **kwargs):
            if name == "before_train_iter":
                rates.append(self.optim_wrapper.get_lr()["lr"][0])
            super().call_hook(name, **kwargs)

    kind = (
        (AccumulatingEpochLoop, EpochBasedTrainLoop)
        if by_epoch
        else (AccumulatingIterLoop, IterBasedTrainLoop)
    )
    length = dict(max_epochs=2) if by_epoch else dict(max_iters=6)
    extra = dict(accumulate=accumulated) if accumulated > 1 else {}
    torch.manual_seed(0)
    runner = Rates(
        Line(),
        str(work),
        train_dataloader=dict(
            dataset=Numbers(),
            batch_size=batch_size,
            collate_fn=dict(type="default_collate"),
            sampler=dict(type="DefaultSampler" if by_epoch else "InfiniteSampler", shuffle=True),
        ),
        train_cfg=dict(type=kind[0] if accumulated > 1 else kind[1], **length, **extra),
        optim_wrapper=dict(optimizer=dict(type=torch.optim.AdamW, lr=0.1)),
        param_scheduler=[dict(type="LinearLR", start_factor=0.1, by_epoch=False, begin=0, end=3)],
        default_hooks=dict(logger=None, checkpoint=dict(type="CheckpointHook", by_epoch=False, interval=3)),
        randomness=dict(seed=3),
        load_from=str(work / f"iter_{resume_at}.pth") if resume_at else None,
        resume=bool(resume_at),
        experiment_name=f"{work.name}_{batch_size}_{by_epoch}_{resume_at}",
    )
    runner.train()
    return torch.cat((runner.model.line.weight.data[0], runner.model.line.bias.data)), rates


@pytest.mark.parametrize("by_epoch", [True, False])
def test_steps_learning_rates_and_weights_are_those_of_the_whole_batch(tmp_path, by_epoch):
    whole, rates = _train(tmp_path / "whole", 8, 1, by_epoch)
    parts, own = _train(tmp_path / "parts", 2, 4, by_epoch)
    assert own == rates
    assert len(own) == 6
    torch.testing.assert_close(parts, whole, atol=1e-6, rtol=1e-5)


def test_a_resumed_run_steps_as_one_that_was_not_stopped(tmp_path):
    whole, rates = _train(tmp_path, 2, 4, by_epoch=False)
    again, own = _train(tmp_path, 2, 4, by_epoch=False, resume_at=3)
    assert own == rates[3:]
    torch.testing.assert_close(again, whole, atol=1e-6, rtol=1e-5)


def test_the_real_command_keeps_the_recipes_batch(mini_data, call, loader_options, tmp_path, capsys):
    from cmae_mm.engine.launch import train_main

    config = glob("configs/mini/vit-mini*_linear_imagenet.py")[0]
    words = (config, "--work-dir", tmp_path, "--data-root", mini_data / "imagenet", "--accumulate")
    options = [*loader_options, "train_dataloader.batch_size=10", "train_cfg.max_epochs=1"]
    options += [
        "model.backbone.arch.num_layers=1",
        "model.backbone.frozen_stages=1",
        "param_scheduler.0.end=20",
    ]
    assert call(train_main, *words, "2", "--cfg-options", *options) == 0
    record = json.loads((tmp_path / "result.json").read_text())
    assert record["accumulated_batches"] == 2
    assert record["iterations"] == 2  # 40 images: two steps of 2 x 10
    log = next(tmp_path.glob("*/*.log")).read_text()
    assert "1 process x 10 images x 2 accumulated" in log
    assert call(train_main, *words, "none") == 2


MAIN_RECIPE = (
    Path(__file__).parents[2] / "configs/pretrain/cmae/cmae_vit-b-p16_32xb128-amp-coslr-300e_in1k.py"
)


@pytest.mark.parametrize(
    ("processes", "size", "count"), [(32, 128, 1), (16, 256, 1), (8, 128, 4), (1, 128, 32)]
)
def test_pretraining_keeps_its_batch_and_its_rate(processes, size, count):
    cfg = Config.fromfile(MAIN_RECIPE)
    cfg.train_dataloader.batch_size = size
    schedule = cfg._cfg_dict["param_scheduler"]
    assert keeps_its_batch(cfg)
    words = accumulate(cfg, "auto", processes)
    assert words.startswith(f"batch 4096 = {processes} process")
    assert cfg.train_cfg.get("accumulate", 1) == count
    assert cfg.train_cfg.max_epochs == 300
    assert cfg.optim_wrapper.optimizer.lr == 1.5e-4 * 4096 / 256
    assert cfg._cfg_dict["param_scheduler"] == schedule
    others = f"each image with {processes * size - 1} others, not 4095"
    assert (others in words) == (count > 1)
    if count > 1:
        cfg.model.grad_cache = True
        assert "with all 4095 others" in accumulate(cfg, count, processes)


@pytest.mark.parametrize(
    ("scaling", "keeps"),
    [(None, False), (dict(base_batch_size=16), True), (dict(enable=True, base_batch_size=16), False)],
)
def test_who_keeps_its_batch(scaling, keeps):
    assert keeps_its_batch(Config(dict(auto_scale_lr=scaling))) == keeps
