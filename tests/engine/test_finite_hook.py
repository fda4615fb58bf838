from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import CheckpointHook, RuntimeInfoHook
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner, get_priority

import cmae_mm.compat  # noqa: F401  (before torchvision, which mmengine imports)
from cmae_mm.checkpoints.safe_load import load_checkpoint
from cmae_mm.engine.finite_hook import FiniteLossHook, weights_are_finite
from cmae_mm.engine.hooks import PlainCheckpointHook
from cmae_mm.engine.momentum_hook import MomentumUpdateHook
from cmae_mm.errors import UserError

LENGTH = 4  # iterations of an epoch


class Model(BaseModel):
    """Its loss is finite but for one iteration; its gradient may be infinite where the loss is not."""

    def __init__(self, bad_iteration=None, value=float("nan"), gradient=1.0):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.bad_iteration, self.value, self.gradient = bad_iteration, value, gradient
        self.seen = 0

    def forward(self, inputs, mode):
        self.seen += 1
        bad = self.seen == self.bad_iteration
        loss = self.weight * 1e-3
        if bad and self.gradient != 1.0:
            self.gradient_hook = loss.register_hook(lambda grad: grad * self.gradient)
        elif bad:
            loss = loss * self.value
        return {"loss_rec": loss, "loss_con": self.weight.detach() * 0 + 0.25, "con_acc": torch.tensor(0.5)}


class Scaled(OptimWrapper):
    """What `AmpOptimWrapper` does with a loss scaler, on the CPU."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)

    def backward(self, loss):
        self.scaler.scale(loss).backward()
        self._inner_count += 1

    def step(self):
        self.scaler.step(self.optimizer)
        self.scaler.update()


class Items(torch.utils.data.Dataset):
    def __len__(self):
        return 2 * LENGTH

    def __getitem__(self, i):
        return {"inputs": torch.zeros(1)}


def run(work, model, wrapper=OptimWrapper, epochs=3, accumulate=1, hook=True, keep=1):
    runner = Runner(
        model=model,
        work_dir=str(work),
        train_dataloader=dict(
            dataset=Items(), batch_size=2, num_workers=0, sampler=dict(type="DefaultSampler", shuffle=False)
        ),
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        optim_wrapper=wrapper(torch.optim.SGD(model.parameters(), 0.1), accumulative_counts=accumulate),
        default_hooks=dict(
            checkpoint=dict(type="CheckpointHook", interval=1, max_keep_ckpts=keep),
            **({"finite": dict(type=FiniteLossHook)} if hook else {}),
        ),
        custom_hooks=[dict(type=PlainCheckpointHook)],
        experiment_name=work.name,
        default_scope="mmengine",
    )
    runner.train()
    return 0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(("iteration", "epoch"), [(5, 2), (6, 2), (8, 2), (9, 3), (12, 3)])
def test_stops_in_that_iteration_and_keeps_what_was_saved(call, tmp_path, capsys, iteration, epoch, value):
    model = Model(iteration, value)
    assert call(lambda _: run(tmp_path, model)) == 2
    assert model.seen == iteration
    saved = tmp_path / f"epoch_{epoch - 1}.pth"
    error = capsys.readouterr().err
    assert f"in iteration {iteration} (epoch {epoch})" in error
    assert f"loss_rec {value:.4g}" in error
    assert "loss_con 0.25" in error
    assert "con_acc" not in error
    assert f"the last good checkpoint is {saved}" in error
    assert "--resume" in error
    assert error.count("\n") == 1
    assert [p.name for p in tmp_path.glob("*.pth")] == [saved.name]
    assert (tmp_path / "last_checkpoint").read_text() == str(saved)
    assert load_checkpoint(saved)["state_dict"]["weight"].isfinite()
    assert "training stopped in iteration" in next(tmp_path.glob("*/*.log")).read_text()


def test_before_the_first_checkpoint_it_says_so(call, tmp_path, capsys):
    assert call(lambda _: run(tmp_path, Model(2))) == 2
    assert "no checkpoint was written yet" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.pth"))


def test_a_batch_that_is_only_accumulated_counts_too(call, tmp_path):
    model = Model(6)
    assert call(lambda _: run(tmp_path, model, accumulate=4)) == 2
    assert model.seen == 6
    assert model.weight.isfinite()  # no step was due


def test_without_the_hook_broken_weights_are_saved(call, tmp_path):
    """The control: what the hook is for."""
    assert call(lambda _: run(tmp_path, Model(6), hook=False)) == 0
    assert not load_checkpoint(tmp_path / "epoch_3.pth")["state_dict"]["weight"].isfinite()


def test_an_infinite_gradient_in_the_last_step_of_an_epoch_is_not_saved(call, tmp_path, capsys):
    """The loss of that step is finite, and the only checkpoint would be removed before the next is written."""
    model = Model(2 * LENGTH, gradient=float("inf"))
    assert call(lambda _: run(tmp_path, model)) == 2
    error = capsys.readouterr().err
    assert "after epoch 2: weights are not finite" in error
    assert not model.weight.isfinite()
    assert load_checkpoint(tmp_path / "epoch_1.pth")["state_dict"]["weight"].isfinite()
    assert not (tmp_path / "epoch_2.pth").exists()


def test_an_infinite_gradient_under_a_loss_scaler_is_normal(call, tmp_path):
    model = Model(6, gradient=float("inf"))
    assert call(lambda _: run(tmp_path, model, wrapper=Scaled)) == 0
    assert model.seen == 3 * LENGTH
    assert load_checkpoint(tmp_path / "epoch_3.pth")["state_dict"]["weight"].isfinite()


def test_no_other_saver_writes_broken_weights(tmp_path):
    model = torch.nn.Linear(1, 1)
    runner = fake_runner(tmp_path, model=model)
    FiniteLossHook().before_save_checkpoint(runner, {})
    model.weight.data.fill_(float("nan"))
    with pytest.raises(UserError, match="before saving in epoch 3"):
        FiniteLossHook().before_save_checkpoint(runner, {})


def fake_runner(work, rank=0, **more):
    logger = SimpleNamespace(warning=lambda text: None)
    return SimpleNamespace(rank=rank, iter=10, epoch=2, work_dir=str(work), logger=logger, **more)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_only_losses_count(tmp_path, dtype):
    """Statistics may be undefined, as a similarity of no negatives is; numbers are taken as tensors are."""
    hook, runner = FiniteLossHook(), fake_runner(tmp_path)
    good = {
        "loss": torch.tensor(1.0, dtype=dtype),
        "decode.loss_ce": 2.0,
        "neg_sim": torch.tensor(float("nan")),
    }
    hook.after_train_iter(runner, 0, outputs=good)
    hook.after_train_iter(runner, 0, outputs={})
    hook.after_train_iter(runner, 0, outputs=None)
    with pytest.raises(UserError, match=r"loss 1, decode.loss_ce inf"):
        hook.after_train_iter(runner, 0, outputs={**good, "decode.loss_ce": torch.tensor(float("inf"))})


def test_other_processes_leave_the_sentence_to_the_first(tmp_path):
    with pytest.raises(SystemExit) as stopped:
        FiniteLossHook().after_train_iter(fake_runner(tmp_path, rank=1), 0, outputs={"loss": float("nan")})
    assert stopped.value.code == 2


def test_all_weights_and_buffers_are_looked_at():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    assert weights_are_finite(model)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            old = tensor.flatten()[-1].clone()
            tensor.view(-1)[-1] = float("inf")
            assert not weights_are_finite(model), name
            tensor.view(-1)[-1] = old
    assert weights_are_finite(model)


@pytest.mark.parametrize("other", [RuntimeInfoHook, CheckpointHook, MomentumUpdateHook])
def test_runs_before_all_others(other):
    assert get_priority(FiniteLossHook.priority) < get_priority(other.priority)
