"""Linear layers on cached features: equal to a frozen encoder trained end to end; sweeps equal to single layers."""

import math

import numpy as np
import pytest
import torch

import cmae_mm.compat  # noqa: F401  (before torchvision)

# isort: split

from mmpretrain.models import ImageClassifier
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch import nn

from cmae_mm.errors import UserError
from cmae_mm.transfer import probe_loop
from cmae_mm.transfer.feature_table import FeatureTable
from cmae_mm.transfer.frozen_features import FrozenFeatures
from cmae_mm.transfer.imagenet import ImageNetViT
from cmae_mm.transfer.lars import LARS
from cmae_mm.transfer.linear_probe import LinearHead, LinearProbe
from cmae_mm.transfer.logistic_probe import held_out
from cmae_mm.transfer.probe_loop import Schedule
from cmae_mm.transfer.probe_task import Task, hits
from cmae_mm.transfer.sweep_probe import SweepHeads, SweepProbe, groups_of

ARCH = dict(embed_dims=24, num_layers=2, num_heads=3, feedforward_channels=48)


def table(count, width=10, classes=6, seed=0, views=1, parts=1):
    draws = np.random.default_rng(seed)
    labels = draws.integers(0, classes, count)
    centres = np.random.default_rng(9).normal(size=(classes, width))

    def noisy():
        return (centres[labels] + draws.normal(size=(count, width))).astype(np.float32)

    return FeatureTable([[noisy() for _ in range(parts)] for _ in range(views)], labels, classes)


def task(work_dir, train=None, val=None, seed=0):
    work_dir.mkdir(exist_ok=True)
    return Task(
        train or table(200), val or table(90, seed=1), torch.device("cpu"), seed, work_dir, lambda text: None
    )


def test_cached_equals_uncached_on_the_same_batches():
    """MAE's probe: the whole model as tools/train.py builds it, against a head on features of the same images."""
    torch.manual_seed(0)
    frozen = FrozenFeatures(dict(type=ImageNetViT, arch=ARCH, img_size=16, patch_size=8))
    frozen.init_weights()
    backbone = dict(
        type=ImageNetViT, arch=ARCH, img_size=16, patch_size=8, out_type="cls_token", frozen_stages=2
    )
    head = MODELS.build(dict(type="LinearClsHead", num_classes=6, in_channels=24))
    whole = ImageClassifier(backbone=backbone, neck=dict(type="PooledBatchNorm", in_channels=24), head=head)
    whole.backbone.load_state_dict(frozen.backbone.state_dict())
    cached = LinearHead(24, 6, lr=3.0, seed=5)
    head.fc.load_state_dict(cached.model[1].state_dict())
    images, labels = torch.randn(60, 3, 16, 16), torch.arange(60) % 6
    features = frozen(images, ["cls-1"])["cls-1"]
    trained = [p for p in whole.parameters() if p.requires_grad]
    assert trained == [head.fc.weight, head.fc.bias]
    optimizer = LARS(trained, lr=3.0)
    whole.train()
    generator = torch.Generator().manual_seed(0)
    for step in range(8):
        batch = torch.randperm(60, generator=generator)[:20]
        optimizer.param_groups[0]["lr"] = 3.0 * 0.9**step
        samples = [DataSample().set_gt_label(int(labels[i])) for i in batch]
        loss = whole.loss(images[batch], samples)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert float(cached.step(features[batch], labels[batch], 0.9**step)) == pytest.approx(
            float(loss), rel=1e-5
        )
    assert torch.allclose(head.fc.weight, cached.model[1].weight, atol=1e-5)
    assert torch.allclose(whole.neck.running_mean, cached.model[0].running_mean, atol=1e-5)
    whole.eval()
    found = torch.stack([s.pred_score for s in whole.predict(images)])
    cached.model.eval()
    assert torch.allclose(found, cached.model(features).softmax(1), atol=1e-5)


@pytest.mark.parametrize("by_epoch", [False, True])
def test_schedule(by_epoch):
    """MAE: lr * e / w in the warm-up, then half a cosine, e fractional; DINO and MoCo v3: once an epoch, no warm-up."""
    schedule = Schedule(90, 16384, 0.1, 0.0 if by_epoch else 10.0, by_epoch)
    assert schedule.lr(1_281_167) == pytest.approx(6.4)
    assert schedule.lr(8192) == pytest.approx(3.2)
    for epoch in (0, 0.3, 5.5, 9.99, 10, 10.7, 50, 89.9):
        e = math.floor(epoch) if by_epoch else epoch
        if not by_epoch and e < 10:
            expected = e / 10
        else:
            w = 0 if by_epoch else 10
            expected = 0.5 * (1 + math.cos(math.pi * (e - w) / (90 - w)))
        assert schedule.factor(epoch) == pytest.approx(expected)


def test_few_images_get_enough_steps():
    schedule = Schedule(90, 1024, warmup=10, val_interval=5, min_steps=1000)
    assert schedule.stretched(1_281_167).epochs == 90
    few = schedule.stretched(100)
    assert (few.epochs, few.warmup, few.val_interval) == (12 * 90, 120, 60)
    assert few.factor(60) == schedule.factor(5)
    assert few.batch(100) == 100


@pytest.mark.parametrize("probe", [LinearProbe, SweepProbe])
def test_learns_and_goes_on_after_a_stop(tmp_path, monkeypatch, probe):
    """A run that is stopped in its fourth epoch ends as one that was never stopped."""
    options = dict(epochs=6, batch_size=32)
    options |= (
        dict(base_lr=2.0, warmup=1, optimizer="sgd")
        if probe is LinearProbe
        else dict(blocks=[1], pooling=[False], rates=[0.1, 1.0], share=0.1)
    )
    options["val_interval"] = 2
    whole = probe(**options).run(task(tmp_path / "whole", table(200, views=3)))
    assert whole.history[-1]["accuracy/top1"] > 70
    assert [h["epoch"] for h in whole.history] == [2, 4, 6]
    monkeypatch.setattr(probe_loop, "_EVERY", -1.0)
    epochs = []

    def stopping(*args):
        epochs.append(args[4])
        if len(epochs) == 4:
            raise KeyboardInterrupt
        return epoch(*args)

    epoch = probe_loop._epoch
    monkeypatch.setattr(probe_loop, "_epoch", stopping)
    with pytest.raises(KeyboardInterrupt):
        probe(**options).run(task(tmp_path / "part", table(200, views=3)))
    second = probe(**options).run(task(tmp_path / "part", table(200, views=3)))
    assert epochs == [0, 1, 2, 3, 3, 4, 5]
    assert second.history == whole.history
    assert second.notes == whole.notes
    other = probe(**options).run(task(tmp_path / "seed", table(200, views=3), seed=1))
    assert other.history != whole.history


def test_a_foreign_state_is_refused(tmp_path):
    LinearProbe(epochs=2, warmup=1, batch_size=32).run(task(tmp_path / "a"))
    (tmp_path / "a" / probe_loop.STATE).rename(tmp_path / probe_loop.STATE)
    with pytest.raises(UserError, match="is no state of this probe"):
        LinearProbe(epochs=2, warmup=1, batch_size=32, batch_norm=False).run(task(tmp_path))


def test_a_loss_that_explodes_is_told(tmp_path):
    huge = FeatureTable([[np.full((64, 3), 1e30, np.float32)]], np.arange(64) % 6, 6)
    probe = LinearProbe(epochs=3, warmup=0, batch_size=32, base_lr=1e9, optimizer="sgd", batch_norm=False)
    with pytest.raises(UserError, match=r"the loss is (nan|inf) in epoch \d; lower probe.base_lr"):
        probe.run(task(tmp_path, huge, huge))


@pytest.mark.parametrize("batch_norm", [False, True])
def test_a_sweep_equals_single_layers(batch_norm):
    """Each layer against torch's linear layer, batch norm and SGD on its own columns, at its own rate."""
    width, classes, rates = 4, 5, (0.01, 0.3)
    parts, groups = groups_of([1, 3], [False, True], width)
    assert parts == ["cls-3", "cls-2", "cls-1", "avg-1"]
    columns = {g.name: list(range(16))[g.columns] for g in groups}
    assert columns == {
        "blocks1": list(range(8, 12)), "blocks1_avg": list(range(8, 16)),
        "blocks3": list(range(12)), "blocks3_avg": list(range(16)),
    }  # fmt: skip
    heads = SweepHeads(groups, rates, 16, classes, scale=2.0, batch_norm=batch_norm)
    singles = []
    for group, weight in zip(groups, heads.weights, strict=True):
        for i, rate in enumerate(rates):
            size = len(columns[group.name])
            norm = nn.BatchNorm1d(size, affine=False, eps=1e-6) if batch_norm else nn.Identity()
            layer = nn.Linear(size, classes)
            layer.weight.data, layer.bias.data = weight[:, i].detach().t().clone(), torch.zeros(classes)
            model = nn.Sequential(norm, layer)
            singles.append(
                (columns[group.name], rate, model, torch.optim.SGD(layer.parameters(), lr=1.0, momentum=0.9))
            )
    torch.manual_seed(0)
    for step in range(7):
        x, y, factor = torch.randn(20, 16) * 3 + 1, torch.randint(0, classes, (20,)), 1 - step / 10
        heads.step(x, y, factor)
        for own, rate, model, optimizer in singles:
            optimizer.param_groups[0]["lr"] = 2.0 * rate * factor
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[:, own]), y).backward()
            optimizer.step()
    heads.norm.eval()
    x = torch.randn(9, 16)
    scores = heads.scores(x)
    assert scores.shape == (9, 8, classes)
    for i, (own, _, model, _) in enumerate(singles):
        assert torch.allclose(scores[:, i], model.eval()(x[:, own]), atol=1e-5), heads.names[i]


def test_a_sweep_chooses_on_held_out_images(tmp_path):
    """Of held-out images one rate is best, of validation images another: both are told, under names of their own."""
    outcome = SweepProbe(
        blocks=[1, 2], pooling=[False], rates=[1e-4, 0.1, 3.0], share=0.2, epochs=4, batch_size=16
    ).run(task(tmp_path, table(120, parts=2), table(60, seed=1, parts=2)))
    last, layers = outcome.history[-1], outcome.notes["sweep"]["layers"]
    assert list(layers) == [f"blocks{n}_lr{rate}" for n in (1, 2) for rate in ("0.0001", "0.1", "3")]
    assert last["layer"] == max(layers, key=lambda n: layers[n]["held_out"])
    assert last["accuracy/top1"] == layers[last["layer"]]["val"]
    assert last["accuracy/top1_best_on_val"] == max(v["val"] for v in layers.values())
    assert outcome.notes["sweep"]["held_out_images"] == sum(held_out(table(120).labels.numpy(), 0.2, 0))


def test_without_held_out_images_the_middle_rate_counts(tmp_path):
    one = FeatureTable([[np.eye(6, dtype=np.float32)]], np.arange(6), 6)
    outcome = SweepProbe(blocks=[1], pooling=[False], rates=[0.1, 1.0, 9.0], epochs=2).run(
        task(tmp_path, one, one)
    )
    assert outcome.history[-1]["layer"] == "blocks1_lr1"
    assert outcome.notes["sweep"]["chosen"] == "middle rate"


def test_hits():
    scores = torch.tensor([[0.1, 0.9, 0.5], [0.3, 0.2, 0.1], [1.0, 2.0, 3.0]])
    assert hits(scores, torch.tensor([1, 1, 0]), top=2) == (1, 2)
    assert hits(scores, torch.tensor([1, 1, 0])) == (1, 3)


@pytest.mark.parametrize(
    ("probe", "options", "message"),
    [
        (LinearProbe, {"optimizer": "adam"}, "set lars or sgd"),
        (LinearProbe, {"epochs": 5}, "10.* of warm-up"),
        (LinearProbe, {"batch_size": 0}, "batch_size 0"),
        (SweepProbe, {"rates": []}, "set rates above 0"),
        (SweepProbe, {"share": 1.5}, "share to a fraction"),
    ],
)
def test_mistakes_are_named(probe, options, message):
    with pytest.raises(UserError, match=message):
        probe(**options)
