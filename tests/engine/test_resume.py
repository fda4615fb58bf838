"""A run stopped after any iteration goes on with the same samples, draws and numbers as one that was not stopped."""

import random

import numpy as np
import pytest
import torch

from cmae_mm.data.resumable import make_resumable
from cmae_mm.engine.random_states import random_state, set_random_state
from cmae_mm.engine.runner import SuiteRunner

pytestmark = pytest.mark.faults
KINDS = ("epochs", "iterations", "iterations over epochs", "epochs, accumulated", "iterations, accumulated")


@pytest.mark.parametrize(
    ("kind", "stop_at"),
    # mmengine sleeps between passes of a loop by iterations over epochs: once is enough
    [(k, s) for k in KINDS for s in (1, 5, 6, 8) if k != "iterations over epochs" or s == 8],
)
def test_goes_on_with_exactly_what_was_to_come(tmp_path, kind, stop_at, toy):
    whole, _ = toy.train(tmp_path / "whole", kind=kind)
    first, stopped = toy.train(tmp_path / "parts", kind=kind, stop_at=stop_at)
    assert stopped
    second, stopped = toy.train(tmp_path / "parts", kind=kind, resume=True)
    assert not stopped
    assert len(first.model.fed) == stop_at * toy.KINDS[kind][3]
    fed = [*first.model.fed, *second.model.fed]
    assert toy.equal(whole.model.fed, fed)
    assert len({row[1].item() for batch in fed for row in batch}) == sum(map(len, fed))  # no draw comes twice
    newest = (tmp_path / "whole" / "last_checkpoint").read_text().rsplit("/", 1)[1]
    toy.same_end(tmp_path / "whole", tmp_path / "parts", newest)


@pytest.mark.parametrize(("workers", "persistent"), [(1, True), (2, False)])
def test_loader_processes_change_nothing(tmp_path, workers, persistent, toy):
    whole, _ = toy.train(tmp_path / "whole")
    toy.train(tmp_path / "parts", workers=workers, persistent=persistent, stop_at=8)
    second, _ = toy.train(tmp_path / "parts", workers=workers, persistent=persistent, resume=True)
    assert toy.equal(whole.model.fed[8:], second.model.fed)
    toy.same_end(tmp_path / "whole", tmp_path / "parts", "epoch_3.pth")


def test_a_stop_between_two_checkpoints_repeats_what_was_not_saved(tmp_path, toy):
    whole, _ = toy.train(tmp_path / "whole", every=4)
    toy.train(tmp_path / "parts", every=4, stop_at=7)
    second, _ = toy.train(tmp_path / "parts", every=4, resume=True)
    assert toy.equal(whole.model.fed[4:], second.model.fed)
    toy.same_end(tmp_path / "whole", tmp_path / "parts", "epoch_3.pth")


def test_the_position_shows_in_the_iterations_of_the_log(tmp_path, toy):
    toy.train(tmp_path, stop_at=8)
    runner = toy.build(tmp_path, resume=True)
    seen = []
    call_hook = runner.call_hook

    def spy(name, **kwargs):
        if name == "before_train_iter":
            seen.append((runner.epoch, kwargs["batch_idx"], runner.iter))
        call_hook(name, **kwargs)

    runner.call_hook = spy
    runner.train()
    assert seen[:5] == [(1, 2, 8), (1, 3, 9), (1, 4, 10), (1, 5, 11), (2, 0, 12)]


def test_another_batch_size_goes_on_at_the_same_share_of_the_epoch_and_of_the_schedule(tmp_path, toy):
    toy.train(tmp_path / "parts", stop_at=9, every=3)  # 6 iterations an epoch: half of the second is done
    rates = {}
    for name, resume in (("parts", True), ("whole", False)):
        runner = toy.build(tmp_path / name, resume=resume, batch=2, every=100)
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


def test_random_states_are_whole_and_plain(tmp_path, toy):
    state = random_state()
    torch.save(state, tmp_path / "state.pt")

    def draw():
        return random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), torch.rand(3)

    first = draw()
    set_random_state(torch.load(tmp_path / "state.pt", weights_only=True))
    assert toy.equal(first, draw())


@pytest.mark.parametrize("own", [False, True])
def test_processes_have_one_seed_and_draws_of_their_own(monkeypatch, own):
    """The seed says which image is which and what is drawn for it; only generators differ."""
    drawn = []
    for rank in (0, 3):
        monkeypatch.setattr("mmengine.runner.utils.get_rank", lambda rank=rank: rank)
        monkeypatch.setattr("mmengine.dist.get_rank", lambda rank=rank: rank)
        runner = SuiteRunner.__new__(SuiteRunner)
        runner.set_randomness(7, diff_rank_seed=own)
        assert runner.seed == 7
        drawn.append(torch.rand(3))
    assert torch.equal(*drawn) != own


def test_a_data_set_of_samples_still_looks_like_itself(toy):
    loader = torch.utils.data.DataLoader(toy.Noisy(), batch_size=4)
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
