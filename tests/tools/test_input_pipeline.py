"""The benchmark of the input pipeline: it runs, and its baseline makes the official two views."""

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

TOOL = Path(__file__).parents[2] / "tools" / "benchmarks" / "input_pipeline.py"


@pytest.fixture(scope="module")
def tool():
    return runpy.run_path(str(TOOL))


def test_prints_rates_and_ratios(tool, capsys):
    assert tool["main"](["--count", "3", "--rounds", "1", "--decoders"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("3 rendered images, median 500 x 375")
    rates = [line.split("images/s")[0].split()[-1] for line in lines if "images/s" in line]
    assert len(rates) == 5
    assert all(float(rate) > 0 for rate in rates)
    ours, theirs = float(rates[0]), float(rates[1])
    (ratio,) = (line for line in lines if line.startswith("uint8 master / two views"))
    assert float(ratio.split()[-4]) == pytest.approx(ours / theirs, rel=0.03)
    assert sum(line.startswith("ours / ") for line in lines) == 2


def test_reads_a_folder_of_photographs(tool, capsys, tmp_path):
    for i in range(2):
        Image.new("RGB", (60, 40), (i, 90, 200)).save(tmp_path / f"{i}.jpg")
    assert tool["main"](["--images", str(tmp_path), "--count", "9", "--rounds", "1", "--clock", "cpu"]) == 0
    assert capsys.readouterr().out.startswith("2 photographs, median 60 x 40")


def test_the_baseline_makes_two_normalised_views(tool, tmp_path):
    """On an image of one colour all geometry drops out; without luck of the draw the colours stay."""
    color = (200, 100, 50)
    Image.new("RGB", (300, 280), color).save(tmp_path / "a.png")
    pipeline = tool["TwoViews"]()
    torch.manual_seed(0)
    online, target = pipeline(str(tmp_path / "a.png"))
    assert online.shape == target.shape == (3, 224, 224)
    assert online.dtype == target.dtype == torch.float32
    # The official code swaps red and blue before it subtracts the mean of red and blue.
    expected = (np.array(color[::-1]) - (123.675, 116.28, 103.53)) / (58.395, 57.12, 57.375)
    assert np.allclose(online.numpy().mean((1, 2)), expected, atol=1e-4)
    assert online.std(dim=(1, 2)).max() < 1e-5
