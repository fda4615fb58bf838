"""The commands: what --dry-run tells, what a run ends with, one's own encoder."""

import json
import os
import re
import sys

import pytest

from cmae_mm.benchmark import bench as module
from cmae_mm.benchmark.bench import Request, dry_run, planned, run_bench
from cmae_mm.benchmark.given import arch_of
from cmae_mm.benchmark.plan import Plan
from cmae_mm.benchmark.reading import RECIPES, load_recipe
from cmae_mm.benchmark.stages import Stage
from cmae_mm.benchmark.transfer import transfer_recipe
from cmae_mm.cli import run
from cmae_mm.errors import UserError
from cmae_mm.report.records import read_benchmark


def test_dry_run_of_a_full_table(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    out = tmp_path / "out"
    assert run(["bench", "cmae_coco", "--dry-run", "--out", str(out), "--seeds", "2"]) == 0
    text = capsys.readouterr().out
    assert not out.exists()  # nothing is written
    recipe = load_recipe("cmae_coco")
    stages = Plan(recipe, out, (0, 1)).stages
    plan, _, rest = text.partition("Estimated GPU hours")
    for stage in stages:
        assert f"  {stage.name} [{stage.kind}, " in plan
        assert f"\n# {stage.name}: " in rest
        assert not stage.needs or f"      after {', '.join(stage.needs)}\n" in plan
    pretraining = sum(b.cost.gpu_hours for b in recipe.backbones)
    numbers = dict(re.findall(r"^  (\w+) +\d+ +([\d,.]+)$", rest, flags=re.M))
    assert float(numbers["pretrain"].replace(",", "")) == pytest.approx(pretraining, abs=1)
    assert float(numbers["transfer"].replace(",", "")) == 2 * 1030 * len(recipe.backbones)
    assert "detectron2's ViTDet README: 0.314 s an image on an A100: coco-vitdet-b" in rest
    # the exact command: 4 of the 16 GPUs of the recipe are here, so gradients are added up
    config = "configs/coco/mask-rcnn_vitdet-b-p16_lsj-100e_coco.py"
    line = next(w for w in rest.splitlines() if config in w)
    assert line.startswith(f"bash tools/dist_train.sh {config} 4 --work-dir ")
    assert line.endswith(" --accumulate")
    assert f"cmae-mm import {recipe.backbones[0].source} --out" in rest


def test_dry_run_under_slurm_tells_the_commands_of_the_jobs(tmp_path, capsys):
    recipe = load_recipe("cmae_coco")
    dry_run(recipe, Request(tmp_path, launcher="slurm", only=("mv-mae-*",)))
    lines = capsys.readouterr().out.splitlines()
    training = [w for w in lines if w.startswith("srun ") and "pretrain" in w]
    assert len(training) == 1
    assert training[0].endswith("--launcher slurm")


@pytest.fixture
def small(monkeypatch, tmp_path):
    """A recipe whose stages are one-liners that write a result."""

    def plan(self):
        root = tmp_path / "out"
        stages = []
        for name, value in (("a", 1.5), ("b", None)):
            result = root / f"{name}.json"
            body = (
                f"import json;json.dump({{'last':{{'mIoU':{value}}}}},open({str(result)!r},'w'))"
                if value
                else "1/0"
            )
            record = {
                "kind": "transfer", "method": "CMAE", "variant": name, "backbone": "ViT-mini/8", "epochs": 1,
                "backbone_name": name, "weights": "here", "seed": 0, "task": "ADE20K", "task_name": "t",
                "protocol": "mini-upernet", "main_metrics": ["mIoU"], "config": "c.py", "data": {"name": "d"},
                "curves": [], "pictures": [],
            }  # fmt: skip
            argv = (sys.executable, "-S", "-c", body)
            stages.append(Stage(name, name, "transfer", argv, (), (result,), result=result, record=record))
        return stages

    monkeypatch.setattr(module, "Plan", lambda *args: type("P", (), {"stages": plan(None)}))
    return load_recipe("mini")


def test_a_run_ends_with_table_report_and_what_failed(small, tmp_path, capsys):
    out = tmp_path / "out"
    assert run_bench(small, Request(out, jobs=1)) == 1
    text = capsys.readouterr().out
    assert re.search(r"\| ADE20K +\| mini-upernet +\|.* 1\.50 ", text)
    assert "failed: b: ZeroDivisionError: division by zero\n" in text
    assert f"report: {out / 'report' / 'report.html'}" in text
    assert (out / "report" / "report.html").is_file()
    assert (out / ".gitignore").read_text().splitlines()[-1] == "*"
    about = json.loads((out / "benchmark.json").read_text())
    assert [row["variant"] for row in about["planned"]] == ["a", "b"]
    assert about["records"] == ["a", "b"]
    assert about["rows"] == [["a", "t"], ["b", "t"]]
    other = json.loads((out / "records" / "a.json").read_text()) | {
        "name": "z",
        "backbone_name": "z",
        "seed": 5,
    }
    (out / "records" / "z.json").write_text(json.dumps(other))
    assert len(read_benchmark(out).records) == 2  # z belongs to another recipe in the same folder
    (out / "benchmark.json").write_text(json.dumps({"rows": [["z", "t"]]}))
    assert [r.name for r in read_benchmark(out).records] == ["z"]
    assert [r.name for r in read_benchmark(out, RECIPES / "mini.toml").records] == ["a", "b"]
    assert run_bench(small, Request(out, only=("a",), jobs=1)) == 0
    assert "everything was finished already" in capsys.readouterr().out


def test_missing_data_and_unusable_folders_are_named(tmp_path):
    recipe = load_recipe("cmae_coco")
    with pytest.raises(UserError, match=r"none: no such folder of data; give --data-root .* coco"):
        run_bench(recipe, Request(tmp_path / "out", data_root=str(tmp_path / "none")))
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be used as output folder"):
        run_bench(load_recipe("mini"), Request(tmp_path / "file" / "out"))


def test_a_full_disk_is_one_sentence(small, tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_json", full)
    with pytest.raises(
        UserError, match=r"out: cannot be written or read \(No space left on device\); what was saved"
    ):
        run_bench(small, Request(tmp_path / "out", jobs=1))


def test_data_root_replaces_the_data_of_the_recipe(tmp_path):
    _, stages = planned(load_recipe("mini"), Request(tmp_path, data_root="/sets"))
    assert all(stage.kind != "data" for stage in stages)
    assert all(str(stage.data).startswith("/sets/") for stage in stages if stage.data)


def test_one_command_transfers_ones_own_encoder(tmp_path, capsys):
    weights = tmp_path / "my encoder.v2.pth"
    weights.write_bytes(b"1")
    words = [
        "transfer",
        "--backbone",
        str(weights),
        "--tasks",
        "coco,ade20k",
        "--dry-run",
        "--out",
        str(tmp_path / "o"),
    ]
    assert run(words) == 0
    text = capsys.readouterr().out
    assert "my encoder on coco, ade20k: 5 stages" in text
    assert "configs/coco/mask-rcnn_vitdet-b-p16_lsj-100e_coco.py" in text
    recipe = transfer_recipe(str(weights), ["coco"], "full", "Mine", "ViT-L/16")
    task, backbone = recipe.tasks[0], recipe.backbones[0]
    assert (task.protocol, backbone.method, backbone.source) == ("DET-VITDET", "Mine", str(weights))
    assert transfer_recipe("hf://a/b/c.safetensors", ["coco"], "short", "", "ViT-B/16").name == "c"


def backbone_file(path, **fields):
    about = {"kind": "vit", "width": 1024, "depth": 24, "patch": 16, **fields}
    text = json.dumps({"__metadata__": {"cmae_mm": json.dumps(about)}}).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    return str(path)


def test_the_architecture_is_read_from_the_file(tmp_path):
    large = backbone_file(tmp_path / "l.safetensors")
    assert transfer_recipe(large, ["coco"], "full", "", "").tasks[0].name == "coco-vitdet-l"
    odd = backbone_file(tmp_path / "o.safetensors", width=7)
    for path in (odd, __file__, backbone_file(tmp_path / "d.safetensors")[:-1], "hf://a/b/c.pth"):
        assert arch_of(path) == ""
    (tmp_path / "huge").write_bytes(b"\xff" * 16)
    assert arch_of(str(tmp_path / "huge")) == ""
    assert transfer_recipe(odd, ["coco"], "full", "", "").tasks[0].name == "coco-vitdet-b"
    assert transfer_recipe(odd, ["coco"], "mini", "", "").tasks[0].name == "mini-coco"


def test_a_backbone_file_needs_no_import(tmp_path):
    file = backbone_file(tmp_path / "l.safetensors")
    stages = Plan(transfer_recipe(file, ["coco"], "full", "", ""), tmp_path / "out", (0,)).stages
    assert [(s.kind, s.needs) for s in stages] == [("transfer", ()), ("pictures", ("l-seed0.coco-vitdet-l",))]
    words = stages[0].argv
    assert words[words.index("--backbone") + 1] == file
    assert [str(path) for path in stages[0].inputs] == [file]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"reference": "none.pth"}, "--backbone none.pth: no such file"),
        ({"preset": "long"}, "--preset long: there is none; use full, short, mini"),
        ({"arch": "ViT-G"}, "--arch ViT-G"),
        ({"tasks": ["lvis"]}, "--tasks lvis: the preset full has .*coco"),
    ],
)
def test_words_that_name_nothing(change, what):
    words = {"reference": __file__, "tasks": ["coco"], "preset": "full", "name": "", "arch": "ViT-B/16"}
    with pytest.raises(UserError, match=what):
        transfer_recipe(**{**words, **change})


def test_the_demo_is_a_bench(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(
        "cmae_mm.benchmark.command._go", lambda recipe, out, args, words: seen.append((recipe.name, out)) or 0
    )
    monkeypatch.chdir(tmp_path)
    assert run(["demo"]) == run(["bench", "mini"]) == 0
    assert [(name, str(out)) for name, out in seen] == [
        ("mini", os.path.join("work_dirs", "demo")), ("mini", os.path.join("work_dirs", "bench", "mini")),
    ]  # fmt: skip
