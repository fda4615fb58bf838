"""The benchmark of UperNet: both models are the same network, and what it prints are their rates."""

import re
from importlib import import_module
from pathlib import Path

import pytest
import torch

from cmae_mm.engine.cpu import OneDNNLinear, prefers_onednn
from cmae_mm.errors import UserError

FOLDER = Path(__file__).parents[2] / "tools" / "benchmarks"
MINI = ["--device", "cpu", "--size", "mini", "--rounds", "1", "--threads", "1"]


@pytest.fixture
def tool(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    threads = torch.get_num_threads()
    yield import_module("upernet_step")
    torch.set_num_threads(threads)


def test_prints_rates_and_their_ratio(tool, capsys):
    assert tool.main([*MINI, "--what", "backbone"]) == 0
    first, ours, theirs, ratio = capsys.readouterr().out.splitlines()
    assert "backbone, mini, 128 px, batch 1, fp32" in first
    rates = [float(re.search(r"([\d.]+) images/s", line)[1]) for line in (ours, theirs)]
    assert (ours.split()[0], theirs.split()[0]) == ("cmae_mm", "mmseg")
    assert float(re.search(r"images/s ([\d.]+)", ratio)[1]) == pytest.approx(rates[0] / rates[1], rel=2e-2)


def test_a_step_of_one_image_is_refused(tool):
    with pytest.raises(UserError, match="needs two images"):
        tool.parse([*MINI, "--what", "step", "--batch", "1"])


@pytest.mark.parametrize("what", ["step", "slide"])
def test_both_models_do_the_same_work(tool, what, monkeypatch):
    monkeypatch.setattr(tool, "keep_memory", lambda: True)  # it would last for the whole process
    args, device = tool.parse([*MINI, "--what", what])
    args.device_type = device.type
    for name in (tool.OURS, tool.THEIRS):
        tool.make_step(name, args, device)()
    from mmengine.registry import MODELS

    ours, theirs = (MODELS.build(tool.config_of(n, args).model) for n in (tool.OURS, tool.THEIRS))
    count = [sum(p.numel() for p in model.parameters()) for model in (ours, theirs)]
    assert count[0] == count[1]
    fitted = tool.fit_to_cpu(ours)
    assert type(fitted.backbone.blocks[0].attn.qkv) is (OneDNNLinear if prefers_onednn() else torch.nn.Linear)
