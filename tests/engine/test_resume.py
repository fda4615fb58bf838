"""A run stopped after any iteration goes on with the same samples, draws and numbers as one that was not stopped."""

import random

import numpy as np
import pytest
import torch
from mmengine.hooks import EMAHook
from mmengine.model import BaseModel
from mmengine.optim import CosineAnnealingLR, LinearLR
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop

from cmae_mm.checkpoints.safe_load import load_checkpoint
from cmae_mm.data.resumable import make_resumable
from cmae_mm.engine.accumulation import AccumulatingEpochLoop, AccumulatingIterLoop
from cmae_mm.engine.checkpoint_hook import SuiteCheckpointHook
from cmae_mm.engine.hooks import PlainCheckpointHook
from cmae_mm.engine.random_states import RandomStateHook, random_state, set_random_state
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
    "iterations, accumulated": (AccumulatingIterLoop, "InfiniteSampler", {"max_iters": 9, "accumulate": 2}, 2),
}


class Stop(Exception):
    pass


def build(work, kind="epochs", workers=0, persistent=False, resume=False, stop_at=None, batch=4, every=1, **hook):
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
            dict(type=CosineAnnealingLR, by_epoch=by_epoch, begin=1, end=3, T_max=2, convert_to_iter_based=by_epoch),
        ],
        default_hooks=dict(logger=None, checkpoint=dict(type=SuiteCheckpointHook, **saving, **hook)),
        custom_hooks=[dict(type=EMAHook), dict(type=RandomStateHook), dict(type=PlainCheckpointHook)],
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


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stop_at", [1, 4, 5, 6, 8])
def test_goes_on_with_exactly_what_was_to_come(tmp_path, kind, stop_at):
    whole, _ = train(tmp_path / "whole", kind=kind)
    first, stopped = train(tmp_path / "parts", kind=kind, stop_at=stop_at)
    assert stopped
    second, stopped = train(tmp_path / "parts", kind=kind, resume=True)
    assert not stopped
    assert len(first.model.fed) == stop_at * KINDS[kind][3]
    fed = [*first.model.fed, *second.model.fed]
    assert equal(whole.model.fed, fed)
    assert len({row[1].item() for batch in fed for row in batch}) == sum(map(len, fed))  # no draw comes twice
    newest = (tmp_path / "whole" / "last_checkpoint").read_text().rsplit("/", 1)[1]
    same_end(tmp_path / "whole", tmp_path / "parts", newest)


@pytest.mark.parametrize(("workers", "persistent"), [(1, True), (2, False)])
def test_loader_processes_change_nothing(tmp_path, workers, persistent):
    whole, _ = train(tmp_path / "whole")
    train(tmp_path / "parts", workers=workers, persistent=persistent, stop_at=8)
    second, _ = train(tmp_path / "parts", workers=workers, persistent=persistent, resume=True)
    assert equal(whole.model.fed[8:], second.model.fed)
    same_end(tmp_path / "whole", tmp_path / "parts", "epoch_3.pth")


def test_a_stop_between_two_checkpoints_repeats_what_was_not_saved(tmp_path):
    whole, _ = train(tmp_path / "whole", every=4)
    train(tmp_path / "parts", every=4, stop_at=7)
    second, _ = train(tmp_path / "parts", every=4, resume=True)
    assert equal(whole.model.fed[4:], second.model.fed)
    same_end(tmp_path / "whole", tmp_path / "parts", "epoch_3.pth")


def test_the_position_shows_in_the_iterations_of_the_log(tmp_path):
    train(tmp_path, stop_at=8)
    runner = build(tmp_path, resume=True)
    seen = []
    call_hook = runner.call_hook

    def spy(name, **kwargs):
        if name == "before_train_iter":
            seen.append((runner.epoch, kwargs["batch_idx"], runner.iter))
        call_hook(name, **kwargs)

    runner.call_hook = spy
    runner.train()
    assert seen[:5] == [(1, 2, 8), (1, 3, 9), (1, 4, 10), (1, 5, 11), (2, 0, 12)]


def test_another_batch_size_goes_on_at_the_same_share_of_the_epoch_and_of_the_schedule(tmp_path):
    train(tmp_path / "parts", stop_at=9, every=3)  # 6 iterations an epoch: half of the second is done
    rates = {}
    for name, resume in (("parts", True), ("whole", False)):
        runner = build(tmp_path / name, resume=resume, batch=2, every=100)
        rates[name] = seen = {}
        call_hook = runner.call_hook

        def spy(hook, runner=runner, seen=seen, call_hook=call_hook, **kwargs):
            if hook == "before_train_iter":
                seen[runner.iter] = [runner.epoch, *runner.optim_wrapper.get_lr()["lr"]]
            call_hook(hook, **kwargs)

        runner.call_hook = spy
        runner.train()
    assert list(rates["parts"]) == list(range(17, 33)) or list(rates["parts"]) == list(range(16, 33))
    assert rates["parts"] == {i: rates["whole"][i] for i in rates["parts"]}


def test_random_states_are_whole_and_plain(tmp_path):
    state = random_state()
    torch.save(state, tmp_path / "state.pt")

    def draw():
        return random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), torch.rand(3)

    first = draw()
    set_random_state(torch.load(tmp_path / "state.pt", weights_only=True))
    assert equal(first, draw())


def test_a_data_set_of_samples_still_looks_like_itself():
    loader = torch.utils.data.DataLoader(Noisy(), batch_size=4)
    make_resumable(loader, 0)
    make_resumable(loader, 0)
    assert loader.dataset.metainfo == {}
    loader.dataset.pipeline = "new"
    assert loader.dataset._inside.pipeline == "new"
    before = torch.get_rng_state()
    batches = [batch["inputs"] for batch in loader]
    assert torch.equal(before, torch.get_rng_state())
    assert [int(b[0, 0]) for b in batches] == [0, 4, 8, 12, 16, 20]
    assert len(loader) == 6
