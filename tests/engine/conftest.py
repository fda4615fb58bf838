"""A run of seconds that draws random numbers everywhere, for tests of checkpoints and of resuming."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.hooks import EMAHook
from mmengine.model import BaseModel
from mmengine.optim import CosineAnnealingLR, LinearLR
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop

from cmae_mm.checkpoints.safe_load import load_checkpoint
from cmae_mm.engine.accumulation import AccumulatingEpochLoop, AccumulatingIterLoop
from cmae_mm.engine.checkpoint_hook import SuiteCheckpointHook
from cmae_mm.engine.hooks import PlainCheckpointHook
from cmae_mm.engine.random_states import RandomStateHook
from cmae_mm.engine.runner import SuiteRunner

LENGTH = 22  # samples: 5 batches of 4, and one of 2


class Noisy(torch.utils.data.Dataset):
    """Draws from every global generator, as pipelines of OpenMMLab do."""

    metainfo = {}

    def __len__(self):
        return LENGTH

    def __getitem__(self, i):
        drawn = [random.random(), np.random.rand(), torch.rand(()).item()]
        return {"inputs": torch.tensor([float(i), *drawn])}


class Dropping(BaseModel):
    """Draws in each step from the generator of the device, and notes what it was fed."""

    def __init__(self):
        super().__init__()
        self.line = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3))
        self.fed = []

    def forward(self, inputs, data_samples=None, mode="loss"):
        self.fed.append(inputs.clone())
        return {"loss": self.line(inputs).square().mean() + self.line[1].weight.square().mean()}


KINDS = {
    "epochs": (EpochBasedTrainLoop, "DefaultSampler", {"max_epochs": 3}, 1),
    "iterations": (IterBasedTrainLoop, "InfiniteSampler", {"max_iters": 14}, 1),
    "iterations over epochs": (IterBasedTrainLoop, "DefaultSampler", {"max_iters": 14}, 1),
    "epochs, accumulated": (AccumulatingEpochLoop, "DefaultSampler", {"max_epochs": 3, "accumulate": 2}, 2),
    "iterations, accumulated": (
        AccumulatingIterLoop,
        "InfiniteSampler",
        {"max_iters": 9, "accumulate": 2},
        2,
    ),
}


class Stop(Exception):
    pass


def build(
    work,
    kind="epochs",
    workers=0,
    persistent=False,
    resume=False,
    stop_at=None,
    batch=4,
    every=1,
    more=(),
    **hook,
):
    loop, sampler, length, _ = KINDS[kind]

    class Stopping(SuiteRunner):
        def call_hook(self, name, **kwargs):
            super().call_hook(name, **kwargs)
            if name == "after_train_iter" and self.iter + 1 == stop_at:
                self.writer.wait()
                raise Stop

    by_epoch = loop in (EpochBasedTrainLoop, AccumulatingEpochLoop)
    saving = dict(iter_interval=every) if by_epoch else dict(by_epoch=False, interval=every)
    return Stopping(
        model=Dropping(),
        work_dir=str(work),
        train_dataloader=dict(
            dataset=Noisy(),
            batch_size=batch,
            num_workers=workers,
            persistent_workers=persistent,
            collate_fn=dict(type="default_collate"),
            sampler=dict(type=sampler, shuffle=True),
        ),
        train_cfg=dict(type=loop, **length),
        optim_wrapper=dict(optimizer=dict(type=torch.optim.AdamW, lr=0.1)),
        param_scheduler=[
            dict(type=LinearLR, start_factor=0.1, by_epoch=False, begin=0, end=4),
            dict(
                type=CosineAnnealingLR,
                by_epoch=by_epoch,
                begin=1,
                end=3,
                T_max=2,
                convert_to_iter_based=by_epoch,
            ),
        ],
        default_hooks=dict(logger=None, checkpoint=dict(type=SuiteCheckpointHook, **saving, **hook)),
        custom_hooks=[
            *map(dict, more),
            *(dict(type=t) for t in (EMAHook, RandomStateHook, PlainCheckpointHook)),
        ],
        randomness=dict(seed=3),
        resume=resume,
        experiment_name=f"{work.parent.name}_{work.name}_{resume}",
        default_scope="mmengine",
    )


def train(work, **options):
    runner = build(work, **options)
    torch.manual_seed(1)  # the model's start, and whatever a new process begins with
    runner.model.line[1].reset_parameters()
    try:
        runner.train()
    except Stop:
        return runner, True
    return runner, False


def equal(a, b):
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


def same_end(one, other, name):
    """All that was saved at the end, but for what says when and where."""
    ends = [load_checkpoint(work / name) for work in (one, other)]
    assert ends[0].keys() == ends[1].keys()
    for key in ends[0].keys() - {"meta", "message_hub"}:
        assert equal(ends[0][key], ends[1][key]), key
    assert {"optimizer", "param_schedulers", "ema_state_dict", "random_states"} <= ends[0].keys()


@pytest.fixture(scope="session")
def toy():
    """What this file defines; test modules cannot import it."""
    return SimpleNamespace(
        Noisy=Noisy, KINDS=KINDS, LENGTH=LENGTH, build=build, train=train, equal=equal, same_end=same_end
    )
