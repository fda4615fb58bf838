"""Looks at a model in training. Run as a program, the file is one of the two processes of the last test."""

import json
import os
import random
import socket
import subprocess
import sys
from contextlib import nullcontext
from glob import glob
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from torch import nn

import cmae_mm.pretrain
from cmae_mm.engine.finite_hook import FiniteLossHook
from cmae_mm.engine.knn import knn_accuracy
from cmae_mm.engine.throughput_hook import ThroughputHook
from cmae_mm.errors import UserError
from cmae_mm.pretrain import curves, monitor
from cmae_mm.pretrain.curves import CurvesHook, draw_curves
from cmae_mm.pretrain.masking import Mask, block_mask
from cmae_mm.pretrain.monitor import (
    KNN_FILE,
    EpochMonitor,
    KNNProbeHook,
    ReconstructionHook,
    tile,
    undisturbed,
)

SIZE, GRID, CLASSES = 8, 4, 3


class Images(torch.utils.data.Dataset):
    """Noise around one colour for each class. Reading draws from every source of random numbers."""

    def __init__(self, n, seed=0, unknown=False):
        self.n, self.seed, self.unknown = n, seed, unknown

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        random.random(), np.random.rand(), torch.rand(1)
        generator = torch.Generator().manual_seed(1000 * self.seed + i)
        noise = torch.randint(0, 160, (3, SIZE, SIZE), generator=generator)
        noise[i % CLASSES] += 8
        return {"inputs": noise.to(torch.uint8), "label": -1 if self.unknown else i % CLASSES}


class Model(nn.Module):
    """Says about itself what the hooks ask a pretraining model for."""

    def __init__(self):
        super().__init__()
        self.bn = nn.BatchNorm2d(3)
        self.drop = nn.Dropout(0.5)
        self.frozen = nn.BatchNorm1d(2).eval()
        self.backbone = SimpleNamespace(
            draw_mask=lambda n, device, generator: block_mask(n, GRID, 0.5, 2, generator)
        )

    def data_preprocessor(self, data, training):
        assert not training
        return {"inputs": data["inputs"].float() / 255}

    def pool_feat(self, images):
        assert not torch.is_grad_enabled()
        torch.rand(1)
        return self.drop(self.bn(images)).mean(dim=(2, 3)) - 0.4


class Views:
    """A data preprocessor without draws: RGB in, units of 1/255 out."""

    def __call__(self, data, training):
        assert not training
        return {"inputs": data["inputs"].float() / 255}

    def to_pixels(self, images):
        return (images * 255).round().clamp(0, 255).to(torch.uint8)


class Painter(Model):
    """Paints all pixels with one value, which training would change."""

    value = 0.5

    def __init__(self):
        super().__init__()
        self.data_preprocessor = Views()

    def reconstruct(self, images, masks):
        assert isinstance(masks, Mask)
        side = SIZE // GRID
        hidden = masks.mask.view(-1, 1, GRID, GRID).repeat_interleave(side, 2).repeat_interleave(side, 3)
        return SimpleNamespace(image=torch.full_like(images, self.value), mask=hidden)


def fake_runner(work, model, epoch=0, max_epochs=20):
    seen = []
    return SimpleNamespace(
        model=model,
        work_dir=str(work),
        epoch=epoch,
        iter=100 * epoch,
        max_epochs=max_epochs,
        rank=0,
        timestamp="now",
        logger=SimpleNamespace(info=lambda text: seen.append(text), warning=lambda text: None),
        visualizer=SimpleNamespace(
            add_scalars=lambda values, step, file_path: seen.append((values, step)),
            add_image=lambda name, image, step: seen.append((name, image, step)),
        ),
        optim_wrapper=SimpleNamespace(optim_context=lambda model: nullcontext()),
        seen=seen,
    )


def random_states():
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()


def probe(**more):
    return KNNProbeHook(bank=dict(type=Images, n=37), queries=dict(type=Images, n=23, seed=1), k=5, **more)


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


# --- with the real model -------------------------------------------------------------------------------------------


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


# --- two processes -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """What each of two gloo processes found."""
    folder = tmp_path_factory.mktemp("two")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    shared["PYTHONPATH"] = str(Path(cmae_mm.__file__).parents[1])
    words = [sys.executable, __file__, str(folder)]
    workers = [subprocess.Popen(words, env={**shared, "RANK": str(rank)}) for rank in range(2)]
    assert [worker.wait(timeout=90) for worker in workers] == [0, 2]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)], folder


def test_probe_is_shared_by_processes(two_processes, tmp_path):
    found, folder = two_processes
    alone = fake_runner(tmp_path, Model())
    probe(batch_size=4).before_train(alone)
    expected = json.loads((tmp_path / KNN_FILE).read_text())
    assert json.loads((folder / KNN_FILE).read_text()) == expected
    assert [f["entries"] for f in found] == [expected] * 2
    assert [f["read"] for f in found] == [
        19 + 12,
        18 + 11 + 2,
    ]  # 37 and 23 images; the last ones are filled up


def test_throughput_adds_up_over_processes(two_processes):
    """Process 0: 30 images in 10 s, 2 s waiting; process 1: 20 images in 8 s, 6 s waiting."""
    found, _ = two_processes
    for f in found:
        assert f["images_per_s"] == pytest.approx((30 + 20) / 10)
        assert f["data_wait"] == pytest.approx(6 / 8)
        assert f["memory_gib"] == max(other["memory_own"] for other in found)


def test_a_bad_loss_of_one_process_stops_both(two_processes):
    found, _ = two_processes
    assert "in process 1 (loss nan, loss_rec 0.5)" in found[0]["sentence"]
    assert found[1]["sentence"] is None


def work_as_one_of_two(folder):
    import torch.distributed as dist
    from mmengine.logging import MessageHub

    from cmae_mm.engine import throughput_hook

    torch.set_num_threads(1)
    rank = int(os.environ["RANK"])
    dist.init_process_group("gloo")
    reads = []
    read = Images.__getitem__
    Images.__getitem__ = lambda self, i: reads.append(i) or read(self, i)
    runner = fake_runner(folder, Model())
    runner.rank, runner.message_hub = rank, MessageHub("two")
    hook = probe(batch_size=4)
    hook.before_train(runner)

    throughput = ThroughputHook()
    throughput._images, throughput._seconds, throughput._wait = ((30, 10.0, 2.0), (20, 8.0, 6.0))[rank]
    throughput_hook.peak_memory = lambda: (rank + 1) * 2**30
    throughput._publish(runner)
    found = {"entries": hook.entries, "read": len(reads), "sentence": None, "memory_own": rank + 1}
    found |= {
        n: runner.message_hub.get_scalar(f"train/{n}").current()
        for n in ("images_per_s", "data_wait", "memory_gib")
    }

    losses = {"loss": torch.tensor(1.0), "loss_rec": torch.tensor(0.5)}
    FiniteLossHook().after_train_iter(runner, 0, outputs=losses)
    if rank == 1:
        losses["loss"] = torch.tensor(float("nan"))
    try:
        FiniteLossHook().after_train_iter(runner, 1, outputs=losses)
    except UserError as error:
        found["sentence"] = str(error)
    finally:
        (folder / f"{rank}.json").write_text(json.dumps(found))
        dist.destroy_process_group()


if __name__ == "__main__":
    work_as_one_of_two(Path(sys.argv[1]))
