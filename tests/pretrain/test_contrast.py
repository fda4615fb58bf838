"""Contrastive losses against slow loops, and over two processes against one large batch."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from ports import free_port

from cmae_mm.pretrain import contrast
from cmae_mm.pretrain.contrast import byol_loss, gather, info_nce, nt_xent, spread


def cosine(a, b):
    return torch.cosine_similarity(a, b, dim=0).item()


@pytest.mark.parametrize(("n", "m", "offset", "tau"), [(3, 7, 2, 0.07), (5, 5, 0, 0.2), (1, 4, 3, 1.0)])
def test_info_nce_by_hand(n, m, offset, tau):
    query, keys = torch.randn(n, 5), torch.randn(m, 5)
    loss = hits = positive = negative = 0.0
    for i in range(n):
        sims = [cosine(query[i], k) for k in keys]
        own = sims[i + offset]
        loss += math.log(sum(math.exp(s / tau) for s in sims)) - own / tau
        hits += own == max(sims)
        positive += own
        negative += (sum(sims) - own) / (m - 1)
    ours = info_nce(query, keys, tau, offset)
    assert ours.loss.item() == pytest.approx(loss / n, abs=1e-4)
    assert ours.accuracy.item() == pytest.approx(hits / n)
    assert ours.positive.item() == pytest.approx(positive / n, abs=1e-5)
    assert ours.negative.item() == pytest.approx(negative / n, abs=1e-5)


@pytest.mark.parametrize(("n", "tau"), [(1, 0.1), (4, 0.1), (7, 0.5)])
def test_nt_xent_by_hand(n, tau):
    first, second = torch.randn(n, 6), torch.randn(n, 6)
    every = torch.cat([first, second])
    loss = hits = negative = 0.0
    for i in range(2 * n):
        partner = (i + n) % (2 * n)
        sims = {j: cosine(every[i], every[j]) for j in range(2 * n) if j != i}
        loss += math.log(sum(math.exp(s / tau) for s in sims.values())) - sims[partner] / tau
        hits += sims[partner] == max(sims.values())
        negative += (sum(sims.values()) - sims[partner]) / max(2 * n - 2, 1)
    ours = nt_xent(first, second, tau)
    assert ours.loss.item() == pytest.approx(loss / (2 * n), abs=1e-4)
    assert ours.accuracy.item() == pytest.approx(hits / (2 * n))
    assert ours.negative.item() == pytest.approx(negative / (2 * n), abs=1e-5)


def test_byol_is_the_squared_distance_of_unit_vectors():
    query, key = torch.randn(6, 8), torch.randn(6, 8)
    distance = (F.normalize(query, dim=1) - F.normalize(key, dim=1)).square().sum(1).mean()
    ours = byol_loss(query, key)
    torch.testing.assert_close(ours.loss, distance)
    perfect = byol_loss(query, 3 * query)
    assert perfect.loss.item() == pytest.approx(0, abs=1e-6)
    assert perfect.accuracy.item() == 1
    assert perfect.positive.item() == pytest.approx(1)


@pytest.mark.parametrize("cells", [1, 20, 39, 200])
def test_blocks_of_rows_equal_the_whole(cells, monkeypatch):
    query, key = (torch.randn(7, 5, dtype=torch.float64, requires_grad=True) for _ in range(2))

    def both():
        one, two = info_nce(query, key, 0.2, offset=0), nt_xent(query, key, 0.2)
        return [*one, *two, *torch.autograd.grad(one.loss + two.loss, (query, key))]

    whole = both()
    monkeypatch.setattr(contrast, "MAX_CELLS", cells)
    torch.testing.assert_close(both(), whole, atol=1e-6, rtol=1e-5)  # computed in float32


def test_spread_tells_collapse():
    healthy = spread(torch.randn(4000, 64))
    assert healthy.item() == pytest.approx(1 / 8, rel=0.02)
    one_point = torch.randn(1, 64).expand(50, -1) * torch.rand(50, 1).add(0.5)
    assert spread(one_point).item() == pytest.approx(0, abs=1e-6)


def test_no_gradient_through_plain_gathering_of_one_process():
    features = torch.randn(3, 4, requires_grad=True)
    assert gather(features) is features
    assert gather(features, with_gradient=True) is features


def test_losses_stay_in_float32_under_autocast():
    query, keys = torch.randn(8, 16), torch.randn(8, 16)
    plain = info_nce(query, keys, 0.07).loss, nt_xent(query, keys, 0.1).loss, byol_loss(query, keys).loss
    with torch.autocast("cpu", torch.bfloat16):
        cast = info_nce(query, keys, 0.07).loss, nt_xent(query, keys, 0.1).loss, byol_loss(query, keys).loss
    for a, b in zip(plain, cast, strict=True):
        assert torch.equal(a, b)


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """Losses and gradients of two gloo processes, with the data that they shared."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("two")
    data = {"queries": torch.randn(6, 8), "keys": torch.randn(6, 8)}
    torch.save(data, folder / "data.pt")
    shared = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "WORLD_SIZE": "2"}
    worker = [sys.executable, str(Path(__file__).with_name("contrast_worker.py")), str(folder)]
    workers = [subprocess.Popen(worker, env={**shared, "RANK": str(rank)}) for rank in range(2)]
    assert [process.wait(timeout=90) for process in workers] == [0, 0]
    return data, [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def compare(parts, loss, grads):
    """Each process averages over its own half, and DDP averages over processes."""
    mean = sum(part[0] for part in parts) / 2
    torch.testing.assert_close(mean, loss.detach(), atol=1e-5, rtol=0)
    for k, grad in enumerate(grads, start=1):
        ours = torch.cat([part[k] for part in parts]) / 2
        torch.testing.assert_close(ours, grad, atol=1e-5, rtol=0)


def test_two_processes_equal_one_large_batch(two_processes):
    data, parts = two_processes
    query, key = (data[name].clone().requires_grad_() for name in ("queries", "keys"))
    loss = info_nce(query, key.detach(), 0.07).loss
    compare([p["info_nce"] for p in parts], loss, torch.autograd.grad(loss, query))


def test_symmetric_contrast_over_two_processes_has_the_whole_gradient(two_processes):
    data, parts = two_processes
    query, key = (data[name].clone().requires_grad_() for name in ("queries", "keys"))
    loss = nt_xent(query, key, 0.1).loss
    compare([p["nt_xent"] for p in parts], loss, torch.autograd.grad(loss, (query, key)))
