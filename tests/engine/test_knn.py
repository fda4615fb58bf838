import math
import random

import pytest
import torch

from cmae_mm.engine.knn import knn_accuracy, knn_predict
from cmae_mm.errors import UserError


def slow_vote(query, bank, labels, classes, k, temperature):
    """The formula for one query, in float64 and plain Python."""

    def cosine(a, b):
        dot, na, nb = (sum(x * y for x, y in zip(u, v, strict=True)) for u, v in ((a, b), (a, a), (b, b)))
        return dot / math.sqrt(na * nb)

    similarity = [cosine(query, entry) for entry in bank]
    nearest = sorted(range(len(bank)), key=lambda i: (-similarity[i], i))[:k]
    scores = [0.0] * classes
    for i in nearest:
        scores[labels[i]] += math.exp(similarity[i] / temperature)
    return scores.index(max(scores))


def draw(queries, bank, width, classes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (bank,), generator=generator)
    centres = torch.randn(classes, width, generator=generator)
    return (
        torch.randn(queries, width, generator=generator) + centres[torch.arange(queries) % classes],
        torch.randn(bank, width, generator=generator) + centres[labels],
        labels,
    )


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (5, 0.07), (20, 0.07), (20, 1.0), (60, 0.02)])
@pytest.mark.parametrize(("bank", "width", "classes"), [(60, 3, 2), (61, 16, 7), (200, 8, 10)])
def test_agrees_with_a_slow_loop(bank, width, classes, k, temperature):
    queries, entries, labels = draw(23, bank, width, classes)
    predicted = knn_predict(queries, entries, labels, classes, k, temperature)
    slow = [
        slow_vote(q, entries.tolist(), labels.tolist(), classes, k, temperature) for q in queries.tolist()
    ]
    assert predicted.tolist() == slow


@pytest.mark.parametrize("max_cells", [1, 70, 71, 142, 1000])
def test_pieces_make_no_difference(max_cells):
    queries, bank, labels = draw(37, 70, 8, 5)
    whole = knn_predict(queries, bank, labels, 5)
    assert torch.equal(knn_predict(queries, bank, labels, 5, max_cells=max_cells), whole)


def test_length_of_features_does_not_matter():
    queries, bank, labels = draw(40, 80, 8, 5)
    scaled = bank * torch.rand(80, 1, generator=torch.Generator().manual_seed(1)).add(0.1)
    assert torch.equal(knn_predict(queries * 100, scaled, labels, 5), knn_predict(queries, bank, labels, 5))


def test_half_precision_is_computed_in_float32():
    queries, bank, labels = (
        part.bfloat16() if part.is_floating_point() else part for part in draw(40, 80, 8, 5)
    )
    with torch.autocast("cpu", torch.bfloat16):
        half = knn_predict(queries, bank, labels, 5)
    assert torch.equal(half, knn_predict(queries.float(), bank.float(), labels, 5))


@pytest.mark.parametrize("k", range(1, 13))
def test_of_equally_near_entries_the_first_count(k):
    """Axes as features: all similarities are exactly 1, 0 or -1, with many ties at the k-th place."""
    draws = random.Random(k)
    axes = [[s if i == a else 0.0 for i in range(3)] for a in range(3) for s in (1.0, -1.0)]
    bank = [draws.choice(axes) for _ in range(12)]
    labels = [draws.randrange(4) for _ in bank]
    predicted = knn_predict(torch.tensor(axes), torch.tensor(bank), torch.tensor(labels), 4, k, 0.5)
    assert predicted.tolist() == [slow_vote(q, bank, labels, 4, k, 0.5) for q in axes]


def test_of_equal_scores_the_lowest_class_wins():
    bank = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    assert knn_predict(bank[:1], bank, torch.tensor([2, 1, 0]), 3, k=2).tolist() == [1]


@pytest.mark.parametrize("temperature", [1e-6, 1e-3, 1e3])
def test_no_temperature_overflows(temperature):
    """Near 0 the nearest entry decides alone, at infinity every neighbour counts the same."""
    bank = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.8, 0.1], [-1.0, 0.0]])
    expected = 0 if temperature < 1 else 1
    predicted = knn_predict(torch.tensor([[1.0, 0.0]]), bank, torch.tensor([0, 1, 1, 0]), 2, 3, temperature)
    assert predicted.tolist() == [expected]


def test_accuracy_is_in_percent():
    queries, bank, labels = draw(50, 90, 8, 5)
    truth = torch.arange(50) % 5
    predicted = knn_predict(queries, bank, labels, 5).tolist()
    hits = sum(p == i % 5 for i, p in enumerate(predicted))
    assert 20 < 2 * hits < 100  # neither chance nor perfect: the next line says something
    assert knn_accuracy(queries, truth, bank, labels, 5) == pytest.approx(2.0 * hits)


def test_zero_features_are_allowed():
    """A collapsed encoder is measured too, as chance."""
    assert knn_predict(torch.zeros(2, 4), torch.zeros(9, 4), torch.full((9,), 3), 5, k=3).tolist() == [3, 3]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 10}, "at least that many images, not 9"),
        ({"k": 0}, "change k"),
        ({"classes": 2}, "labels 2 to 2"),
        ({"queries": torch.full((1, 4), float("nan"))}, "not finite"),
        ({"bank": torch.full((9, 4), float("inf"))}, "not finite"),
    ],
)
def test_mistakes_are_named(change, message):
    right = {
        "queries": torch.ones(1, 4),
        "bank": torch.ones(9, 4),
        "labels": torch.full((9,), 2),
        "classes": 3,
        "k": 9,
    }
    with pytest.raises(UserError, match=message):
        knn_predict(**(right | change))
