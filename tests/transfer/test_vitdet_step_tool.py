"""The benchmark of the ViTDet backbone: its plain version computes the same, and it prints what it measured."""

import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch

from cmae_mm.errors import UserError

FOLDER = Path(__file__).parents[2] / "tools" / "benchmarks"
MINI = ["--device", "cpu", "--arch", "mini", "--size", "96", "--rounds", "1", "--threads", "1"]


@pytest.fixture
def tool(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    threads = torch.get_num_threads()
    yield import_module("vitdet_step")
    torch.set_num_threads(threads)


def test_prints_agreement_rates_memory_and_ratio():
    done = subprocess.run(
        [sys.executable, str(FOLDER / "vitdet_step.py"), *MINI],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(FOLDER.parents[1])},
    )
    agreement, where, ours, plain, ratio = done.stdout.splitlines()[-5:]
    assert float(re.search(r"within ([\d.e-]+)", agreement)[1]) < 1e-4
    assert "CPU, 1 threads" in where
    assert "96 px, fp32" in where
    rates = [float(re.search(r"([\d.]+) images/s", line)[1]) for line in (ours, plain)]
    assert float(re.search(r"images/s ([\d.]+)", ratio)[1]) == pytest.approx(rates[0] / rates[1], abs=0.02)
    peaks = [float(re.search(r"peak ([\d.]+) GiB", line)[1]) for line in (ours, plain)]
    assert min(peaks) > 0.1  # with its libraries
    assert float(re.search(r"memory ([\d.]+)", ratio)[1]) == pytest.approx(peaks[0] / peaks[1], abs=0.03)


def test_another_computation_is_not_timed(tool, monkeypatch):
    table = tool.plain_table
    monkeypatch.setattr(tool, "plain_table", lambda *args: 2 * table(*args))
    with pytest.raises(UserError, match="differ"):
        tool.main(MINI)


def test_sizes_and_devices_that_cannot_be_timed_are_refused(tool):
    with pytest.raises(UserError, match="--size 100"):
        tool.main([*MINI[:4], "--size", "100"])
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="no GPU"):
            tool.main(["--device", "cuda"])
