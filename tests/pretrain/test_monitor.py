"""Looks at a model in training."""

import json
import random
from contextlib import nullcontext
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from monitored import CLASSES, GRID, SIZE, Images, Model, Painter, fake_runner, probe

from cmae_mm.engine.knn import knn_accuracy
from cmae_mm.errors import UserError
from cmae_mm.pretrain import curves, monitor
from cmae_mm.pretrain.curves import CurvesHook, draw_curves
from cmae_mm.pretrain.masking import block_mask
from cmae_mm.pretrain.monitor import (
    KNN_FILE,
    EpochMonitor,
    KNNProbeHook,
    ReconstructionHook,
    tile,
    undisturbed,
)


def random_states():
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()


@pytest.mark.parametrize("error", [None, KeyError])
def test_nothing_is_disturbed(error):
    model = Model()
    model.train()
    model.frozen.eval()
    modes, states = [m.training for m in model.modules()], random_states()
    with pytest.raises(error) if error else nullcontext(), undisturbed(model):
        assert not any(m.training for m in model.modules())
        assert not torch.is_grad_enabled()
        random.random(), np.random.rand(), torch.rand(3)
        if error:
            raise error
    assert [m.training for m in model.modules()] == modes
    assert True in modes
    assert modes[-1] is False
    assert random_states() == states
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("at_start", [True, False])
@pytest.mark.parametrize(("interval", "epochs"), [(1, 3), (2, 5), (10, 4), (4, 12)])
def test_looks_at_the_start_every_interval_and_at_the_end(interval, epochs, at_start):
    class Look(EpochMonitor):
        def is_done(self, runner, epoch):
            return False

        def look(self, runner, epoch):
            looks.append(epoch)

    looks, hook = [], Look(interval, at_start)
    runner = SimpleNamespace(epoch=0, max_epochs=epochs)
    hook.before_train(runner)
    for runner.epoch in range(epochs):
        hook.after_train_epoch(runner)
    expected = {e for e in range(1, epochs + 1) if e / interval == e // interval} | {epochs}
    assert looks == sorted(expected | ({0} if at_start else set()))


def test_looks_after_the_checkpoint_is_written():
    from mmengine.hooks import CheckpointHook
    from mmengine.runner import get_priority

    order = [CheckpointHook, KNNProbeHook, CurvesHook]
    places = [get_priority(hook.priority) for hook in order]
    assert places == sorted(set(places))


def test_an_interval_of_nothing_is_a_mistake():
    with pytest.raises(UserError, match="interval=0"):
        CurvesHook(interval=0)


@pytest.mark.parametrize(("batch_size", "num_workers"), [(1, 0), (5, 0), (64, 0), (8, 2)])
def test_probe_measures_the_accuracy_of_the_vote(tmp_path, batch_size, num_workers):
    model = Model().train()
    runner = fake_runner(tmp_path, model)
    before, states = {k: v.clone() for k, v in model.state_dict().items()}, random_states()
    probe(batch_size=batch_size, num_workers=num_workers).before_train(runner)
    assert random_states() == states
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name  # batch-norm statistics too
    assert model.training

    def features(n, seed):
        pixels = torch.stack([Images(n, seed)[i]["inputs"] for i in range(n)]).float() / 255
        return pixels.mean(dim=(2, 3)) / (1 + 1e-5) ** 0.5 - 0.4  # fresh batch norm divides by sqrt(1 + eps)

    truth = [torch.arange(n) % CLASSES for n in (23, 37)]
    expected = knn_accuracy(features(23, 1), truth[0], features(37, 0), truth[1], CLASSES, k=5)
    assert 40 < expected < 100
    (entry,) = json.loads((tmp_path / KNN_FILE).read_text())
    assert entry == {"epoch": 0, "iter": 0, "knn_top1": pytest.approx(expected, abs=1e-3)}
    line, scalars = runner.seen
    assert f"knn_top1 {entry['knn_top1']:.2f} %" in line
    assert scalars == ({"knn_top1": entry["knn_top1"]}, 0)


def test_probe_of_a_resumed_run_keeps_what_it_still_stands_on(tmp_path):
    """Epochs 0, 2, 4 are known, the run goes on from epoch 2: what came later is measured again."""
    known = [{"epoch": e, "iter": 100 * e, "knn_top1": float(e)} for e in (0, 2, 4)]
    (tmp_path / KNN_FILE).write_text(json.dumps(known))
    hook, runner = probe(interval=2), fake_runner(tmp_path, Model(), epoch=2)
    hook.before_train(runner)
    assert not runner.seen  # epoch 2 was looked at
    runner.epoch = 3
    hook.after_train_epoch(runner)
    entries = json.loads((tmp_path / KNN_FILE).read_text())
    assert entries[:2] == known[:2]
    assert [e["epoch"] for e in entries] == [0, 2, 4]
    assert entries[2]["knn_top1"] > 40


def test_probe_makes_up_for_a_look_that_a_stopped_run_missed(tmp_path):
    (tmp_path / KNN_FILE).write_text(json.dumps([{"epoch": 0, "iter": 0, "knn_top1": 1.0}]))
    probe(interval=2).before_train(fake_runner(tmp_path, Model(), epoch=2))
    assert [e["epoch"] for e in json.loads((tmp_path / KNN_FILE).read_text())] == [0, 2]


def test_probe_names_mistakes(tmp_path):
    runner = fake_runner(tmp_path, Model())
    few = KNNProbeHook(bank=dict(type=Images, n=4), queries=dict(type=Images, n=4), k=5)
    with pytest.raises(UserError, match="k=5 neighbours cannot vote among 4"):
        few.before_train(runner)
    unknown = KNNProbeHook(bank=dict(type=Images, n=9, unknown=True), queries=dict(type=Images, n=4), k=5)
    with pytest.raises(UserError, match="no label"):
        unknown.before_train(runner)


def test_pictures_show_the_same_images_under_the_same_masks(tmp_path):
    model = Painter().train()
    hook, runner = (
        ReconstructionHook(dict(type=Images, n=20), interval=5, count=4),
        fake_runner(tmp_path, model),
    )
    states = random_states()
    hook.before_train(runner)
    runner.epoch, model.value = 4, 1.0
    hook.after_train_epoch(runner)
    assert random_states() == states
    assert model.training
    assert sorted(p.name for p in tmp_path.glob("pictures/*")) == ["epoch_0000.png", "epoch_0005.png"]
    (name, first, start), (_, second, end) = runner.seen
    assert (name, start, end) == ("reconstruction", 0, 5)
    for epoch, picture in ((0, first), (5, second)):
        read = cv2.imread(str(tmp_path / f"pictures/epoch_{epoch:04d}.png"))
        assert np.array_equal(read[..., ::-1], picture)

    factor = monitor._TILE // SIZE
    height = monitor._TITLE + factor * SIZE + monitor._GAP
    tops = [row * height + monitor._TITLE for row in range(3)]
    step = factor * SIZE + 2 * monitor._GAP
    mask = block_mask(4, GRID, 0.5, 2, torch.Generator().manual_seed(0)).mask.view(4, GRID, GRID)
    for i, index in enumerate((0, 5, 10, 15)):  # equal distances in 20
        source = Images(20)[index]["inputs"].permute(1, 2, 0).numpy()
        hidden = np.kron(mask[i].numpy(), np.ones((SIZE // GRID,) * 2))[..., None] == 1
        expected = [source, np.where(hidden, 127, source), np.where(hidden, 255, source)]
        for top, want in zip(tops, expected, strict=True):
            left = monitor._GAP + i * step
            shown = second[top : top + factor * SIZE : factor, left : left + factor * SIZE : factor]
            assert np.array_equal(shown, want)
    assert (first[tops[0] : tops[2]] == second[tops[0] : tops[2]]).all()
    assert (first[tops[2] :] != second[tops[2] :]).any()


def test_too_few_pictures_are_a_mistake(tmp_path):
    with pytest.raises(UserError, match="3 images, but count=4"):
        ReconstructionHook(dict(type=Images, n=3), count=4).before_train(fake_runner(tmp_path, Painter()))


@pytest.mark.parametrize("side", [4, 64, 128, 224])
def test_tiles_are_enlarged_by_whole_factors(side):
    picture = tile({"a": torch.zeros(2, 3, side, side, dtype=torch.uint8)})
    shown = max(side, monitor._TILE // side * side)
    assert picture.shape == (monitor._TITLE + shown + monitor._GAP, 2 * (shown + 2 * monitor._GAP), 3)
    assert (picture[monitor._TITLE :] == 0).sum() == 2 * 3 * shown**2


def test_curves_join_the_parts_of_a_run(tmp_path):
    """The second part goes on from iteration 20; a killed run left half a line."""
    for name, iterations, loss in (("1", (10, 20, 30), 1.0), ("2", (30, 40), 2.0)):
        folder = tmp_path / name / "vis_data"
        folder.mkdir(parents=True)
        lines = [
            json.dumps({"iter": i, "step": i, "loss": loss, "con_acc": float("nan")}) for i in iterations
        ]
        lines.insert(1, json.dumps({"knn_top1": 5.0, "step": 1}))
        (folder / "scalars.json").write_text("\n".join(lines) + '\n{"iter": 5')
    joined = [(line["iter"], line["loss"]) for line in curves._logged_lines(tmp_path)]
    assert joined == [(10, 1.0), (20, 1.0), (30, 2.0), (40, 2.0)]
    (tmp_path / KNN_FILE).write_text(json.dumps([{"epoch": 1, "iter": 10, "knn_top1": 5.0}]))
    picture = cv2.imread(str(draw_curves(tmp_path)))
    blank = cv2.imread(str(draw_curves(tmp_path / "1")))
    assert picture.shape == blank.shape
    assert (picture != blank).any()
