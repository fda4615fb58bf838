"""What runs again: exactly what depends on what changed. A small copy of the project is edited, nothing is run."""

import json
import os

import pytest

from cmae_mm.benchmark import fingerprint, stages
from cmae_mm.benchmark.plan import Plan
from cmae_mm.benchmark.recipe import ROOT, Backbone, Recipe, Task
from cmae_mm.benchmark.state import StateFolder, write_json

FILES = {
    "tools/train.py": "from cmae_mm.cli import guard\nfrom cmae_mm.engine.launch import train_main\n",
    "tools/visualize_pretraining.py": "from cmae_mm.pretrain.pictures import main\n",
    "tools/visualize_detections.py": "from cmae_mm.transfer.coco import main\n",
    "cmae_mm/__init__.py": "",
    "cmae_mm/cli.py": "X = 1\n",
    "cmae_mm/engine/__init__.py": "",
    "cmae_mm/engine/launch.py": "def train_main():\n    from cmae_mm.engine import runner\n",
    "cmae_mm/engine/runner.py": "Y = 1\n",
    "cmae_mm/pretrain/__init__.py": "from cmae_mm.pretrain.cmae import CMAE\n",
    "cmae_mm/pretrain/cmae.py": 'class CMAE:\n    """Words."""\n\n    rate = 1\n',
    "cmae_mm/pretrain/pictures.py": "Z = 1\n",
    "cmae_mm/transfer/__init__.py": "",
    "cmae_mm/transfer/coco.py": "A = 1\n",
    "cmae_mm/transfer/ade20k.py": "B = 1\n",
    "cmae_mm/checkpoints/__init__.py": "",
    "cmae_mm/checkpoints/commands.py": "C = 1\n",
    "configs/_base_/run.py": "epochs = 1\n",
    "configs/_base_/deep/model.py": "width = 1\n",
    "configs/pre.py": (
        "from mmengine.config import read_base\nwith read_base():\n    from ._base_.run import *\n"
        "    from ._base_.deep.model import *\nfrom cmae_mm.pretrain import CMAE\n"
    ),
    "configs/coco.py": (
        "with read_base():\n    from ._base_.run import *\nfrom cmae_mm.transfer.coco import A\n"
    ),
    "configs/ade.py": "from cmae_mm.transfer import ade20k\n",
}


@pytest.fixture
def project(tmp_path, monkeypatch):
    root = tmp_path / "project"
    for name, text in FILES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for module in (fingerprint, stages, "cmae_mm.benchmark.plan"):
        monkeypatch.setattr(f"{module}.ROOT" if isinstance(module, str) else f"{module.__name__}.ROOT", root)
    return Project(root, tmp_path / "out", tmp_path / "data")


class Project:
    """A recipe of two tasks whose stages are all noted as finished."""

    def __init__(self, root, out, data):
        self.root, self.out, self.data = root, out, data
        for task in ("imagenet", "coco", "ade"):
            (data / task / "train").mkdir(parents=True)
            (data / task / "list.txt").write_text("1")

    def plan(self):
        tasks = [
            Task(
                name,
                name,
                "p",
                f"configs/{name}.py",
                name,
                ("m",),
                pictures="detections" if name == "coco" else "",
            )
            for name in ("coco", "ade")
        ]
        backbones = (Backbone("random", "random init"), Backbone("own", "CMAE", config="configs/pre.py"))
        recipe = Recipe("r", "r", "", (0,), False, "", str(self.data), 0, backbones, tuple(tasks))
        return Plan(recipe, self.out, (0,)).stages

    def finish(self):
        """Note every stage as done, with what it makes."""
        for stage in self.plan():
            for path in stage.makes:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(path.name)
        state = StateFolder(self.out / "stages", self.out)
        for stage in self.plan():
            parts = state.parts(stage)
            write_json(
                state.path(stage), {"status": "done", "fingerprint": fingerprint.join(parts), "parts": parts}
            )

    def open(self):
        """Names of the stages that do not count as finished by themselves, and why."""
        state = StateFolder(self.out / "stages", self.out)
        return {s.name: state.why_open(s) for s in self.plan() if not state.finished(s)}

    def edit(self, name, before, after):
        path = self.root / name
        text = path.read_text()
        assert before in text
        path.write_text(text.replace(before, after))


PRETRAIN, FILE, VIEWS = "own-seed0.pretrain", "own-seed0.import", "own-seed0.views"
COCO, ADE = ("random-seed0.coco", "own-seed0.coco"), ("random-seed0.ade", "own-seed0.ade")
PICTURES = "own.coco-pictures"


def test_nothing_changed_nothing_runs(project):
    project.finish()
    assert project.open() == {}


@pytest.mark.parametrize(
    ("file", "before", "after", "why", "expected"),
    [
        ("configs/pre.py", "import CMAE", "import CMAE\nx = 1", "config", (PRETRAIN, VIEWS)),
        ("configs/_base_/deep/model.py", "1", "2", "config", (PRETRAIN, VIEWS)),
        ("configs/_base_/run.py", "1", "2", "config", (PRETRAIN, VIEWS, *COCO, PICTURES)),
        ("configs/ade.py", "ade20k", "ade20k as x", "config", ADE),
        ("cmae_mm/pretrain/cmae.py", "rate = 1", "rate = 2", "code", (PRETRAIN, VIEWS)),
        ("cmae_mm/pretrain/pictures.py", "1", "2", "code", (VIEWS,)),
        ("cmae_mm/transfer/coco.py", "1", "2", "code", (*COCO, PICTURES)),
        ("cmae_mm/transfer/ade20k.py", "1", "2", "code", ADE),
        ("cmae_mm/engine/runner.py", "1", "2", "code", (PRETRAIN, *COCO, *ADE)),
        ("cmae_mm/checkpoints/commands.py", "1", "2", "code", (FILE,)),
        ("tools/visualize_detections.py", "main", "main\nx = 1", "code", (PICTURES,)),
        ("cmae_mm/transfer/coco.py", "A = 1", "A = (", "code", (*COCO, PICTURES)),  # in the middle of an edit
        ("cmae_mm/cli.py", "1", "2", "", ()),
        ("cmae_mm/pretrain/cmae.py", "Words.", "Other words.", "", ()),
        ("configs/pre.py", "import CMAE", "import CMAE  # a comment", "", ()),
    ],
)
def test_config_and_code_reach_what_uses_them(project, file, before, after, why, expected):
    project.finish()
    project.edit(file, before, after)
    assert project.open() == dict.fromkeys(expected, f"{why} changed")


def test_weights_reach_what_reads_them(project):
    project.finish()
    (project.out / "backbones" / "own-seed0.safetensors").write_text("other weights")
    assert project.open() == {"own-seed0.coco": "weights changed", "own-seed0.ade": "weights changed"}
    project.finish()
    (project.out / "runs" / "own" / "seed0" / "coco" / "last.pth").write_text("other weights")
    assert project.open() == {PICTURES: "weights changed"}


@pytest.mark.parametrize("how", ["table", "new picture"])
def test_data_reaches_what_reads_it(project, how):
    project.finish()
    if how == "table":
        (project.data / "coco" / "list.txt").write_text("2")
    else:
        (project.data / "coco" / "train" / "new.jpg").touch()
    assert project.open() == dict.fromkeys((*COCO, PICTURES), "data changed")


def test_project_and_outputs_may_move(project, tmp_path):
    project.finish()
    names = {s.name: stages.Stage.static_parts(s, project.out)["command"] for s in project.plan()}
    project.out = tmp_path / "elsewhere"
    moved = {s.name: stages.Stage.static_parts(s, project.out)["command"] for s in project.plan()}
    assert moved == names


def test_a_missing_output_or_state_opens_a_stage(project):
    project.finish()
    (project.out / "backbones" / "own-seed0.safetensors").unlink()
    found = project.open()
    assert found[FILE] == "an output is missing"
    project.finish()
    (project.out / "stages" / f"{FILE}.json").write_text("{")
    assert project.open() == {FILE: ""}


def test_data_fingerprint(tmp_path):
    assert fingerprint.data_hash(None) == ""
    assert fingerprint.data_hash(tmp_path / "none") == "absent"
    folder = tmp_path / "set"
    (folder / "train" / "a").mkdir(parents=True)
    (folder / "ann.json").write_bytes(b"x" * 300_000)
    seen = [fingerprint.data_hash(folder)]

    def differs():
        seen.append(fingerprint.data_hash(folder))
        assert len(set(seen)) == len(seen)

    (folder / "train" / "a" / "1.jpg").touch()
    differs()
    (folder / "train" / "b").mkdir()
    differs()
    (folder / "ann.json").write_bytes(b"x" * 299_999 + b"y")
    differs()
    (folder / "shard.tar").write_bytes(b"1")
    differs()
    (folder / "shard.tar").write_bytes(b"12")
    differs()
    os.utime(folder / "ann.json", (1, 1))  # times do not count: copies are the same data
    assert fingerprint.data_hash(folder) == seen[-1]
    assert fingerprint.digest(["ab", "c"]) != fingerprint.digest(["a", "bc"])


def test_the_real_project_is_followed_through_late_imports():
    files = {str(p.relative_to(ROOT)) for p in fingerprint.closure([ROOT / "tools" / "train.py"])}
    assert {"cmae_mm/engine/launch.py", "cmae_mm/engine/hooks.py", "cmae_mm/engine/runner.py"} <= files
    assert not any(
        name.startswith(("cmae_mm/benchmark", "cmae_mm/report", "cmae_mm/transfer")) for name in files
    )
    config = ROOT / "configs" / "coco" / "mask-rcnn_vitdet-b-p16_lsj-25e_coco.py"
    files = {str(p.relative_to(ROOT)) for p in fingerprint.closure([config])}
    assert {"configs/_base_/schedules/coco_vitdet_100e.py", "cmae_mm/transfer/vit.py"} <= files
    assert not any("ade20k" in name for name in files)
    json.dumps(sorted(files))
