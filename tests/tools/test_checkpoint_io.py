"""The benchmark of checkpoint files: it runs, its meter measures, and every side does what it is named after."""

import json
import mmap
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cmae_mm.checkpoints.sources.openmmlab import timm_name

TOOL = Path(__file__).parents[2] / "tools" / "benchmarks" / "checkpoint_io.py"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture
def tool():
    tool = runpy.run_path(str(TOOL))
    threads = torch.get_num_threads()
    yield tool
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("io")
    runpy.run_path(str(TOOL))["make_files"](folder, "tiny")
    return folder


def inside(tool):
    """The functions of the tool look names up here."""
    return tool["measure"].__globals__


@pytest.mark.parametrize("megabytes", [48, 96])
def test_the_meter(tool, megabytes):
    """Memory that is given back before the end counts; memory from before does not."""
    earlier = torch.ones(10**7)

    def task():
        # Pages of its own: an allocation might take memory that earlier tests left to the C library.
        with mmap.mmap(-1, megabytes * 10**6) as pages:
            pages[::4096] = b"x" * len(range(0, len(pages), 4096))
        return earlier.sum()

    inside(tool)["work"] = lambda *a: task
    found = tool["measure"]("any", Path("/nowhere"), "tiny")
    assert megabytes * 0.9 < found["megabytes"] < megabytes * 1.3
    assert found["seconds"] > 0


def test_every_side_writes_or_reads_the_same_tensors(tool, files):
    right = load_file(files / "x.safetensors")
    for name in {*tool["PAIRS"], *tool["PAIRS"].values()}:
        result = tool["work"](name, files, "tiny")()
        outs = [p for p in (files / "out", files / "out.safetensors") if p.exists()]
        assert len(outs) == any(word in name for word in ("save", "import_checkpoint", "export")), name
        if outs:
            pickled = name in ("export to mmpretrain", "load_file + torch.save")
            written = torch.load(outs[0], weights_only=True) if pickled else load_file(outs[0])
            outs[0].unlink()
            if name == "export to mmpretrain":
                written = {timm_name(key): value for key, value in written["state_dict"].items()}
            assert written.keys() == right.keys()
            assert all(torch.equal(written[k], right[k]) for k in right)
        elif isinstance(result, dict):
            assert all(torch.equal(result[k], right[k]) for k in right)
        else:  # what `touched` read
            assert result == pytest.approx(sum(float(v.flatten()[::1024].sum()) for v in right.values()))


def test_prints_a_table(tool, capsys):
    """All in this process: a new one for each side takes seconds."""

    def here(*words):
        capsys.readouterr()
        assert tool["main"](list(words)) == 0
        return capsys.readouterr().out

    inside(tool)["child"] = here
    assert tool["main"](["--arch", "tiny", "--rounds", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"file of \d+\.\d MB, 2 rounds, one process and thread each", lines[0])
    rows = [line for line in lines if "MB/s" in line]
    assert len(rows) == 2 * len(tool["PAIRS"]) == len(lines) - 1 - len(tool["PAIRS"])
    size = float(lines[0].split()[2])
    for row in rows:
        seconds, speed = re.search(r"([\d.]+) s +(\d+) MB/s   peak \d+\.\d\d x the file", row).groups()
        assert size / float(speed) == pytest.approx(
            float(seconds), abs=6e-4, rel=0.05
        )  # as rounded as printed


def test_measures_in_a_process_of_its_own(files):
    words = ["--measure", "load_backbone", "--folder", str(files), "--arch", "tiny"]
    done = subprocess.run([sys.executable, TOOL, *words], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout).keys() == {"seconds", "megabytes"}
    words[1] = "import_checkpoint"
    done = subprocess.run(
        [sys.executable, TOOL, *words[:2], "--folder", "/nowhere"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == "error: /nowhere/x.pth: no such checkpoint file; check the path\n"
