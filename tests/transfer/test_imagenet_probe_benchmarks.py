"""The two sides of the probe benchmarks compute the same thing."""

import argparse
import importlib.util
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

FOLDER = Path(__file__).parents[2] / "tools" / "benchmarks"


@pytest.fixture
def load(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))

    def module(name):
        spec = importlib.util.spec_from_file_location(f"benchmark_{name}", FOLDER / f"{name}.py")
        made = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(made)
        return made

    return module


def test_neighbours(load, tmp_path):
    tool = load("knn")
    args = argparse.Namespace(bank=3000, queries=700, width=16, made=str(tmp_path))
    tool.write(tmp_path, args)
    metrics = tool.ours(args, torch.device("cpu"))().history[0]
    predicted = tool.dino(args, torch.device("cpu"))()
    right = predicted.numpy() == np.load(tmp_path / "queries_labels.npy")
    assert metrics["accuracy/k200"] == pytest.approx(100 * right.mean(), abs=0.2)
    assert metrics["accuracy/k200"] > 0.5  # chance is 0.1 %


@pytest.mark.parametrize("measured", [None, 1])
def test_linear_probe(load, mini_data, monkeypatch, capsys, measured):
    tool = load("linear_probe")
    words = [
        "--data-root",
        str(mini_data / "imagenet"),
        "--images",
        "30",
        "--val-images",
        "20",
        "--batch",
        "10",
    ]
    words += ["--epochs", "11", "--clock", "cpu", *(["--measured", str(measured)] if measured else [])]
    monkeypatch.setattr(sys, "argv", ["linear_probe.py", *words])
    assert tool.main() == 0
    text = capsys.readouterr().out
    ours, other = re.findall(r"top-1 (\S+)", text)
    assert other == ("unknown" if measured else ours)
    assert ("extrapolated from 1 epochs" in text) == bool(measured)
    assert float(re.search(r"ratio (\S+)", text)[1]) > 1
