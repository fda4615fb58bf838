"""Remaining time in cases counted by hand, and records made from what runs write."""

import json

import pytest

from cmae_mm.benchmark.progress import ProgressLine, clock, fraction, remaining, total_remaining
from cmae_mm.benchmark.recipe import Cost
from cmae_mm.benchmark.records import write_record
from cmae_mm.benchmark.stages import Stage


def stage(name, seconds, needs=(), work=None):
    return Stage(name, name, "transfer", (), tuple(needs), (), work, Cost(seconds=seconds))


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
    one = stage("a", 100, work=tmp_path)
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


def test_a_record_holds_what_the_run_wrote(tmp_path):
    run = {
        "last": {"coco/bbox_mAP": 0.1 + 0.2, "iter": 9, "epoch": 1, "classes": {"cat": 1.0}},
        "best": {"coco/bbox_mAP": 0.5},
        "commit": "abc+", "backbone_file": str(tmp_path / "backbones" / "x.safetensors"),
        "backbone_sha256": "f" * 64, "versions": {"torch": "2"}, "device": "CPU", "world_size": 2,
        "seconds": 3.5, "iterations": 9, "peak_memory_bytes": 7,
    }  # fmt: skip
    (tmp_path / "result.json").write_text(json.dumps(run))
    planned = {"method": "CMAE", "protocol": "p", "seed": 3, "data": {"name": "coco"}, "kind": "transfer"}
    job = {"name": "a.b", "out": str(tmp_path), "result": str(tmp_path / "result.json"), "record": planned}
    state = {
        "status": "done",
        "parts": {"config": "c", "data": "d", "code": "e"},
        "attempts": 2,
        "finished": "t",
    }
    path = write_record(job, state)
    assert path == tmp_path / "records" / "a.b.json"
    found = json.loads(path.read_text())
    assert found["metrics"] == {"coco/bbox_mAP": {"last": 0.1 + 0.2, "best": 0.5}}
    assert found["backbone_file"] == "backbones/x.safetensors"
    assert found["data"] == {"name": "coco", "fingerprint": "d"}
    assert found["hardware"] == {"device": "CPU", "processes": 2}
    expected = {
        "schema": 1, "name": "a.b", "method": "CMAE", "protocol": "p", "seed": 3, "status": "done", "reason": "",
        "config_sha256": "c", "code_sha256": "e", "commit": "abc+", "packages": {"torch": "2"}, "attempts": 2,
        "peak_memory_bytes": 7, "iterations": 9, "seconds": 3.5, "finished": "t", "backbone_sha256": "f" * 64,
    }  # fmt: skip
    assert {k: found[k] for k in expected} == expected


def test_a_failed_run_has_a_record_without_numbers(tmp_path):
    (tmp_path / "result.json").write_text('{"last": {"a": 1}}')  # of an earlier attempt
    job = {"name": "a", "out": str(tmp_path), "result": str(tmp_path / "result.json"), "record": {"data": {}}}
    write_record(job, {"status": "failed", "reason": "no luck", "seconds": 1.0})
    found = json.loads((tmp_path / "records" / "a.json").read_text())
    assert (found["status"], found["reason"], found["metrics"]) == ("failed", "no luck", {})
    assert [p.name for p in (tmp_path / "records").iterdir()] == ["a.json"]
