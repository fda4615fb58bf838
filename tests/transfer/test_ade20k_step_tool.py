"""The benchmark of UperNet: both models are the same network, and what it prints are their rates."""

import io
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


def test_prints_rates_and_their_ratio(tool, capsys, monkeypatch):
    rates = {"cmae_mm": [3.0, 6.0, 4.0], "mmseg": [2.0, 3.0, 4.0]}
    peaks = {"cmae_mm": 2**30, "mmseg": 2**31}
    asked = []
    monkeypatch.setattr(
        tool, "in_turn", lambda script, names, argv, rounds: asked.append(names) or (rates, peaks)
    )
    assert tool.main([*MINI, "--what", "backbone"]) == 0
    first, ours, theirs, ratio = capsys.readouterr().out.splitlines()
    assert asked == [["cmae_mm", "mmseg"]]
    assert "backbone, mini, 128 px, batch 1, fp32" in first
    assert ours.split()[:3] == ["cmae_mm", "4.000", "images/s"]
    assert theirs.split()[:3] == ["mmseg", "3.000", "images/s"]
    assert "images/s 1.500 (1.000 to 2.000), memory 0.50" in ratio


def test_a_process_answers_each_line_with_rate_and_peak(tool, capsys, monkeypatch):
    """What a process does, in this one: a warm-up of two steps, then a measurement for each line."""
    import _workers

    ran = []
    inner = tool.make_step

    def counted(*words):
        step = inner(*words)
        return lambda: ran.append(1) or step()

    monkeypatch.setattr(tool, "make_step", counted)
    logger = tool.MMLogger.get_current_instance()
    monkeypatch.setattr(logger, "setLevel", lambda level: None)  # it would last
    monkeypatch.setattr(_workers.sys, "stdin", io.StringIO("go\ngo\n"))
    assert tool.main([*MINI, "--what", "backbone", "--serve", "mmseg"]) == 0
    answers = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("measured:")]
    assert [a[1] for a in answers[:1]] == ["ready"]
    assert len(answers) == 3
    assert len(ran) == 4
    assert all(float(rate) > 0 and int(peak) > 2**26 for _, rate, peak in answers[1:])


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
