"""Logistic regression on cached features: the optimum, the choice of C, stops."""

import json

import numpy as np
import pytest
import torch

from cmae_mm.errors import UserError
from cmae_mm.transfer import logistic_probe
from cmae_mm.transfer.feature_table import FeatureTable
from cmae_mm.transfer.logistic_probe import LogisticProbe, held_out
from cmae_mm.transfer.probe_task import Task

STRENGTHS = (1e-3, 0.1, 10.0)


def table(count, seed=0, classes=4):
    draws = np.random.default_rng(seed)
    labels = draws.integers(0, classes, count)
    centres = np.random.default_rng(9).normal(size=(classes, 6))
    return FeatureTable(
        [[(centres[labels] + 1.2 * draws.normal(size=(count, 6))).astype(np.float32)]], labels, classes
    )


def task(work_dir, train=None, val=None):
    return Task(
        train or table(160), val or table(200, 1), torch.device("cpu"), 0, work_dir, lambda text: None
    )


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5])
def test_held_out_images_of_each_class(share):
    labels = np.repeat([0, 1, 2, 5], [100, 10, 1, 2])
    chosen = held_out(labels, share, 3)
    assert [int(chosen[labels == c].sum()) for c in (0, 1, 2, 5)] == [100 * share, max(1, 10 * share), 0, 1]
    assert np.array_equal(chosen, held_out(labels, share, 3))
    assert not np.array_equal(chosen, held_out(labels, share, 4))


def test_finds_the_optimum(tmp_path):
    """At the minimum of C * sum of losses + |W|^2 / 2 the gradient is 0; checked by autograd."""
    data = table(160)
    x, y = data.take(slice(None)).double(), data.labels
    for c in STRENGTHS:
        model = LogisticProbe(strengths=[c])._fit(x.numpy(), y.numpy(), c)
        w, b = (torch.tensor(part, requires_grad=True) for part in (model.coef_, model.intercept_))
        loss = torch.nn.functional.cross_entropy(x @ w.t() + b, y, reduction="sum")
        (c * loss + 0.5 * w.square().sum()).backward()
        assert float(w.grad.abs().max()) < 1e-3 * max(1, c)
        assert float(b.grad.abs().max()) < 1e-3 * max(1, c)


def test_chooses_on_held_out_images_and_fits_all_again(tmp_path):
    run = task(tmp_path)
    outcome = LogisticProbe(strengths=STRENGTHS).run(run)
    notes = outcome.notes["logistic"]
    assert notes["held_out_images"] == held_out(run.train.labels.numpy(), 0.1, 0).sum()
    held = {float(k): v for k, v in notes["held_out"].items()}
    assert notes["C"] == min(c for c in held if held[c] == max(held.values()))
    model = LogisticProbe()._fit(
        run.train.take(slice(None)).double().numpy(), run.train.labels.numpy(), notes["C"]
    )
    expected = (
        100 * (model.predict(run.val.take(slice(None)).double().numpy()) == run.val.labels.numpy()).mean()
    )
    assert outcome.history == [{"accuracy/top1": expected, "accuracy/top5": 100.0}]
    assert 40 < expected < 100


def test_goes_on_after_a_stop(tmp_path, monkeypatch):
    fit = LogisticProbe._fit
    tried = []

    def stopping(self, x, y, c, before=None):
        tried.append(c)
        if len(tried) == 2:
            raise KeyboardInterrupt
        return fit(self, x, y, c, before)

    monkeypatch.setattr(LogisticProbe, "_fit", stopping)
    with pytest.raises(KeyboardInterrupt):
        LogisticProbe(strengths=STRENGTHS).run(task(tmp_path))
    assert len(json.loads((tmp_path / logistic_probe.STATE).read_text())) == 1
    LogisticProbe(strengths=STRENGTHS).run(task(tmp_path))
    assert tried[:4] == [1e-3, 0.1, 0.1, 10.0]


def test_two_classes_and_classes_without_images(tmp_path):
    two = FeatureTable([[np.random.default_rng(0).normal(size=(30, 2))]], np.arange(30) % 2 * 2, 3)
    outcome = LogisticProbe(strengths=[1.0]).run(task(tmp_path, two, two))
    assert outcome.history[0]["accuracy/top5"] == 100.0
    assert outcome.history[0]["accuracy/top1"] > 40


def test_one_image_of_each_class(tmp_path):
    one = FeatureTable([[np.eye(4)]], np.arange(4), 4)
    assert (
        LogisticProbe(strengths=STRENGTHS).run(task(tmp_path, one, one)).history[0]["accuracy/top1"] == 100.0
    )


@pytest.mark.parametrize(
    ("options", "message"), [({"strengths": []}, "above 0"), ({"share": 1}, "a fraction")]
)
def test_mistakes_are_named(options, message):
    with pytest.raises(UserError, match=message):
        LogisticProbe(**options)
