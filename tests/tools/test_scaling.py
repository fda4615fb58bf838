"""The scaling benchmark: the written model against sums by hand, and a run of two processes."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from torch import nn

FOLDER = Path(__file__).parents[2] / "tools" / "benchmarks"


@pytest.fixture
def model(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return import_module("_scaling_model")


def test_traffic_counts_what_is_trained(model):
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2).requires_grad_(False))
    traffic = model.traffic_of(network, batch=8, width=5)
    assert (traffic.gradients, traffic.keys, traffic.layers) == (4 * (12 + 4 + 8), 4 * 8 * 5, 1)


def test_prediction_by_hand(model):
    traffic = model.Traffic(gradients=1_000_000_000, keys=1_000_000, layers=3)
    cluster = model.Cluster("x", gpus_per_node=4, inside=100.0, outside=10.0)
    assumed = model.Assumptions(efficiency=0.5, latency=1e-3, backward=0.5, hidden=1.0)
    inside = model.predict(traffic, cluster, 4, 1.0, assumed)
    assert inside.gradients == pytest.approx(1.5 * 1e9 / 50e9)  # 30 ms, all but the last bucket hidden
    last = 1.5 * model.BUCKET / 50e9
    assert inside.exposed == pytest.approx(last + 3 * 1e6 / 50e9 + 7e-3)
    outside = model.predict(traffic, cluster, 8, 0.4, assumed)
    assert outside.gradients == pytest.approx(1.75 * 1e9 / 5e9)  # 350 ms, of which 200 are hidden
    assert outside.exposed == pytest.approx(0.35 - 0.2 + 7 * 1e6 / 5e9 + 7e-3)
    assert outside.efficiency == pytest.approx(0.4 / (0.4 + outside.exposed))
    unknown = model.predict(traffic, cluster, 8, None, assumed)
    assert unknown.step is None
    assert unknown.exposed > outside.exposed
    assert model.predict(traffic, cluster, 1, 0.4, assumed).efficiency == 1


@pytest.mark.distributed
def test_two_processes_are_measured_together_and_apart():
    words = ["--device", "cpu", "--processes", "1", "2", "--batch", "2", "--steps", "1"]
    done = subprocess.run(
        [sys.executable, str(FOLDER / "scaling.py"), *words], capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [line.split() for line in done.stdout.splitlines() if line.strip()[:2] in ("1 ", "2 ")]
    assert [row[0] for row in rows] == ["1", "2"]
    assert "32 GPUs" in done.stdout
