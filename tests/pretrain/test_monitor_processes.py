"""Looks at a model in training, shared by two processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from monitored import Model, fake_runner, probe
from ports import free_port

import cmae_mm.pretrain
from cmae_mm.pretrain.monitor import (
    KNN_FILE,
)


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """What each of two gloo processes found."""
    folder = tmp_path_factory.mktemp("two")
    shared = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "WORLD_SIZE": "2"}
    shared["PYTHONPATH"] = f"{Path(cmae_mm.__file__).parents[1]}:{Path(__file__).parents[1] / 'helpers'}"
    words = [sys.executable, str(Path(__file__).with_name("monitor_worker.py")), str(folder)]
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
