from types import SimpleNamespace

import pytest
import torch
from mmengine.optim import OptimWrapper

from cmae_mm.engine.momentum_hook import MomentumUpdateHook
from cmae_mm.errors import UserError


class Counting(torch.nn.Linear):
    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.progress = []

    def momentum_update(self, progress):
        self.progress.append(progress)


def make_runner(model, accumulate=1):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    wrapper = OptimWrapper(optimizer, accumulative_counts=accumulate)
    return SimpleNamespace(model=model, optim_wrapper=wrapper, iter=0, max_iters=4)


@pytest.mark.parametrize(("accumulate", "updates"), [(1, [0, 0.25, 0.5, 0.75]), (2, [0.25, 0.75])])
def test_one_update_for_each_optimizer_step(accumulate, updates):
    model = Counting(2, 1)
    runner = make_runner(model, accumulate)
    hook = MomentumUpdateHook()
    hook.before_train(runner)
    for i in range(4):
        runner.optim_wrapper.update_params(model(torch.ones(1, 2)).sum())
        runner.iter = i
        hook.after_train_iter(runner, i)
    assert model.progress == updates  # shares of the run before the step


def test_runs_before_the_checkpoint_is_written():
    from mmengine.hooks import CheckpointHook
    from mmengine.runner import get_priority

    assert get_priority(MomentumUpdateHook.priority) < get_priority(CheckpointHook.priority)


def test_a_model_without_target_is_a_mistake():
    with pytest.raises(UserError, match="MomentumUpdateHook"):
        MomentumUpdateHook().before_train(make_runner(torch.nn.Linear(2, 1)))
