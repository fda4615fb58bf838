"""Nearest neighbours of cached features: against scikit-learn and a slow loop, in tiles and over processes."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from cmae_mm.engine.nearest import find_nearest
from cmae_mm.errors import UserError
from cmae_mm.transfer import knn_probe
from cmae_mm.transfer.feature_table import FeatureTable
from cmae_mm.transfer.knn_probe import KNNProbe
from cmae_mm.transfer.probe_task import Task


def clusters(count, width=12, classes=6, seed=0):
    draws = np.random.default_rng(seed)
    labels = draws.integers(0, classes, count)
    centres = np.random.default_rng(9).normal(size=(classes, width))
    scale = np.linspace(0.1, 5, width)  # so that standardization changes something
    return ((centres[labels] + 1.2 * draws.normal(size=(count, width))) * scale + 1).astype(
        np.float32
    ), labels


def task(train, val, work_dir=None, **kwargs):
    tables = [FeatureTable([[x]], y, 6) for x, y in (train, val)]
    return Task(*tables, torch.device("cpu"), 0, work_dir, log=lambda text: None, **kwargs)


def sklearn_accuracy(train, val, k, temperature, standardize):
    """Cosine distance d = 1 - s, so exp(s / T) = exp(1 / T) exp(-d / T)."""
    (x, y), (q, truth) = train, val
    if standardize:
        scaler = StandardScaler().fit(x.astype(np.float64))
        x, q = scaler.transform(x), scaler.transform(q)
    model = KNeighborsClassifier(
        k, metric="cosine", algorithm="brute", weights=lambda d: np.exp(-d / temperature)
    )
    return 100 * (model.fit(x, y).predict(q) == truth).mean()


@pytest.mark.parametrize("standardize", ["none", "train"])
@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_agrees_with_scikit_learn(standardize, temperature):
    train, val = clusters(400), clusters(150, seed=1)
    probe = KNNProbe(neighbours=[1, 10, 20, 100], temperatures=[temperature], standardize=standardize)
    metrics = probe.run(task(train, val)).history[0]
    for k in (1, 10, 20, 100):
        expected = sklearn_accuracy(train, val, k, temperature, standardize == "train")
        assert metrics[f"accuracy/k{k}"] == pytest.approx(expected), k
    assert metrics["accuracy/top1"] == metrics["accuracy/k20"] < 100
    assert metrics["accuracy/best_k"] == max(metrics[f"accuracy/k{k}"] for k in (1, 10, 20, 100))
    assert metrics["accuracy/top5"] > metrics["accuracy/top1"]


def test_standardization_matters():
    found = [
        KNNProbe(standardize=s).run(task(clusters(400), clusters(150, seed=1))).history[0]
        for s in ("none", "train")
    ]
    assert found[0]["accuracy/top1"] != found[1]["accuracy/top1"]


@pytest.mark.parametrize("world", [2, 3, 7])
def test_processes_share_the_work(world, monkeypatch):
    """Counts of all processes add up to those of one."""
    data = task(clusters(300), clusters(101, seed=1))
    probe = KNNProbe(neighbours=[5, 20], temperatures=[0.07, 1.0])
    whole = probe.run(data).history[0]
    assert len(whole) == 3 + 4
    shares = []
    monkeypatch.setattr(knn_probe, "all_reduce", lambda counts: shares.append(counts.clone()))
    for rank in range(world):
        monkeypatch.setattr(knn_probe, "get_dist_info", lambda rank=rank: (rank, world))
        probe.run(data)
    assert 100 * float(sum(shares)[2, 0]) / 101 == pytest.approx(whole["accuracy/k20_t0.07"])


@pytest.mark.parametrize("tile", [1, 3, 50, 64, 1000])
@pytest.mark.parametrize("max_cells", [1, 64, 10**6])
def test_tiles_make_no_difference(tile, max_cells):
    """Whole numbers: similarities repeat often, so the order of equal ones is tested too."""
    generator = torch.Generator().manual_seed(0)
    bank = torch.randint(-1, 2, (200, 4), generator=generator).float()
    queries = torch.randint(-1, 2, (23, 4), generator=generator).float()
    similarity, place = find_nearest(queries, bank.split(tile), 50, max_cells)
    unit = torch.nn.functional.normalize
    exact = (unit(queries) @ unit(bank).t()).mul(1e5).round()  # products of any shape round alike here
    for row in range(len(queries)):
        order = sorted(range(200), key=lambda i: (-float(exact[row, i]), i))[:50]
        assert (exact[row, place[row]] == exact[row, order]).all()
        assert len(set(place[row].tolist())) == 50
    assert torch.equal(similarity, similarity.sort(dim=1, descending=True).values)


def test_few_entries_limit_the_neighbours():
    outcome = KNNProbe().run(task(clusters(30), clusters(40, seed=1)))
    assert {k for k in outcome.history[0] if k.startswith("accuracy/k")} == {
        "accuracy/k10",
        "accuracy/k20",
        "accuracy/k30",
    }
    outcome = KNNProbe().run(task(clusters(7), clusters(40, seed=1)))
    assert outcome.notes["knn"]["main_neighbours"] == 7
    assert outcome.history[0]["accuracy/top1"] == outcome.history[0]["accuracy/k7"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"standardize": "val"}, "set none or train"),
        ({"neighbours": [10]}, "main=20"),
        ({"neighbours": [0, 20]}, "numbers from 1"),
        ({"temperatures": [0.0]}, "above 0"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(UserError, match=message):
        KNNProbe(**options)


def test_features_that_are_not_finite_are_refused():
    x, y = clusters(40)
    x[17, 3] = np.nan
    with pytest.raises(UserError, match="not finite"):
        KNNProbe().run(task((x, y), clusters(10)))
