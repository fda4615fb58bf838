"""Remaining time in cases counted by hand, and records read from what runs write."""

import json

import pytest

from cmae_mm.benchmark.progress import ProgressLine, clock, fraction, remaining, total_remaining
from cmae_mm.benchmark.recipe import ROOT, load_recipe
from cmae_mm.benchmark.records import collect
from cmae_mm.benchmark.stages import Stage, code_hash, run_dir


def stage(name, seconds, needs=(), progress=None):
    return Stage(name, name, (), tuple(needs), (), progress, seconds)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0:00"),
        (-5, "0:00"),
        (59.6, "1:00"),
        (61, "1:01"),
        (3599, "59:59"),
        (3600, "1:00:00"),
        (86399, "23:59:59"),
    ],
)
def test_clock(seconds, text):
    assert clock(seconds) == text


def test_total_remaining_counted_by_hand():
    a, b, c, d = stage("a", 10), stage("b", 20), stage("c", 5, ["a"]), stage("d", 1, ["b", "c"])
    assert total_remaining({}, [], 2, 1.0) == 0
    assert total_remaining({}, [a, b], 1, 1.0) == 30
    assert total_remaining({}, [a, b], 2, 1.0) == 20
    # a 0-10, b 0-20, c 10-15, d 20-21
    assert total_remaining({}, [a, b, c, d], 2, 1.0) == 21
    assert total_remaining({}, [a, b, c, d], 2, 2.0) == 42
    assert total_remaining({}, [a, b, c, d], 1, 1.0) == 36
    # b runs for 8 s more; a 0-10 in the other slot, c 10-15, d 15-16
    assert total_remaining({b: 8.0}, [a, c, d], 2, 1.0) == 16
    # both slots busy for 3 and 8 s: c starts at 3, d at 8
    assert total_remaining({a: 3.0, b: 8.0}, [c, d], 2, 1.0) == 9


def test_remaining_of_one_stage(tmp_path):
    progress = tmp_path / "progress.json"
    one = stage("a", 100, progress=progress)
    assert fraction(one) is None
    assert remaining(one, 30, 1.0) == 70
    assert remaining(one, 30, 0.5) == 20
    assert remaining(one, 500, 1.0) == 1  # longer than thought: never negative
    progress.write_text(json.dumps({"done": 25, "total": 100}))
    assert fraction(one) == 0.25
    assert remaining(one, 30, 1.0) == 90
    progress.write_text(json.dumps({"done": 1, "total": 100}))
    assert remaining(one, 30, 1.0) == 70  # too little done to count on
    progress.write_text('{"done": 5, "tot')
    assert fraction(one) is None
    progress.write_text(json.dumps({"done": 0, "total": 0}))
    assert fraction(one) is None


def test_progress_line_without_a_terminal_is_sparse(capsys):
    line = ProgressLine("out")
    line.update("first")
    assert capsys.readouterr().out == ""
    line._last -= 16
    line.update("second")
    line.event("stays")
    assert capsys.readouterr().out == "  second -> out\nstays\n"


def test_code_hash_is_stable():
    assert code_hash() == code_hash()


def write_result(out, seed, task, init, last, best):
    folder = run_dir(out, seed, task, init)
    folder.mkdir(parents=True)
    values = {"last": last, "best": best, "config": "x.py", "commit": "abc", "backbone_sha256": None}
    (folder / "result.json").write_text(json.dumps(values))


def test_records_hold_what_the_runs_wrote(tmp_path):
    recipe = load_recipe(ROOT / "configs" / "benchmark" / "mini.toml")
    box, mask = "coco/bbox_mAP", "coco/segm_mAP"
    write_result(
        tmp_path, 0, "coco", "pretrained", {box: 0.25, mask: 0.5, "iter": 9}, {box: 0.375, mask: 0.5}
    )
    write_result(tmp_path, 0, "ade20k", "random", {"mIoU": 12.5}, {"mIoU": 13.0})
    folder = run_dir(tmp_path, 0, "imagenet-linear", "random")
    folder.mkdir(parents=True)
    (folder / "result.json").write_text('{"last": {')  # cut short: not a result
    records = collect(recipe, tmp_path, (0, 1))
    found = [(r["task"], r["metric"], r["init"], r["seed"], r["value"], r["best"]) for r in records]
    assert found == [
        ("COCO, Mask R-CNN", "box AP", "CMAE", 0, 25.0, 37.5),
        ("COCO, Mask R-CNN", "mask AP", "CMAE", 0, 50.0, 50.0),
        ("ADE20K, UperNet", "mIoU (%)", "random", 0, 12.5, 13.0),
    ]
    assert [r["backbone"] for r in records] == ["cmae-seed0.safetensors"] * 2 + [None]
    assert records[0]["protocol"] == "mini-vitdet"
    assert records[0]["metric_key"] == box
    written = json.loads((tmp_path / "records" / "records.json").read_text())
    assert written == {"recipe": "mini", "records": records}
    assert collect(recipe, tmp_path / "empty", (0,)) == []
