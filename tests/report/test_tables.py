"""Tables and the report from records, against numbers by hand."""

import csv
import io
import types

import cv2
import pytest

from cmae_mm.report.document import write_report
from cmae_mm.report.figures import draw_curves, read_scalars, series
from cmae_mm.report.tables import csv_table, markdown_table, rows_of, spread


def record(init, value, seed=0, task="COCO", metric="box AP", protocol="p", **more):
    return {
        "task": task, "protocol": protocol, "metric": metric, "init": init, "seed": seed, "value": value,
        "best": value + 1, "config": "a, b.py", "commit": "abc", "device": "CPU", "backbone_sha256": None, **more,
    }  # fmt: skip


def test_win_not_win_and_missing_side():
    records = [
        *(record("random", v, s) for s, v in enumerate((10.0, 12.0, 14.0))),
        *(record("CMAE", v, s) for s, v in enumerate((20.0, 21.0, 25.0))),
        record("random", 5.0, task="ADE20K"),
        record("CMAE", 4.5, task="ADE20K"),
        record("random", 5.0, task="tie"),
        record("CMAE", 5.0, task="tie"),
        record("random", 5.0, task="open"),
    ]
    win, lose, tie, open_ = rows_of(records, "CMAE")
    assert (win.random, win.pretrained) == ((10.0, 12.0, 14.0), (20.0, 21.0, 25.0))
    assert win.difference == pytest.approx(22 - 12)
    assert [row.verdict for row in (win, lose, tie, open_)] == [
        "CMAE wins",
        "CMAE does NOT win",
        "tie",
        "not finished",
    ]
    assert open_.difference is None


def test_protocols_and_metrics_are_never_mixed():
    records = [
        record("random", 1.0, protocol="a"),
        record("CMAE", 9.0, protocol="b"),
        record("CMAE", 7.0, protocol="a", metric="mask AP"),
    ]
    assert [row.verdict for row in rows_of(records, "CMAE")] == ["not finished"] * 3


def test_seeds_are_paired_in_order_and_rows_keep_theirs():
    records = [record("CMAE", 2.0, 2), record("CMAE", 1.0, 1), record("random", 3.0, 1, task="A")]
    first, second = rows_of(records, "CMAE")
    assert first.pretrained == (1.0, 2.0)
    assert (first.task, second.task) == ("COCO", "A")


def test_spread_is_the_sample_standard_deviation():
    assert spread([]) == "-"
    assert spread([3.25]) == "3.2"
    # mean 22; deviations -2, -1, 3: sqrt((4 + 1 + 9) / 2) = 2.65 (over n it would be 2.16)
    assert spread([20.0, 21.0, 25.0]) == "22.0 ± 2.6"
    assert spread([1.0, 2.0]) == "1.5 ± 0.7"


def test_markdown_is_aligned_and_complete():
    records = [
        record("random", 10.0, task="A long name of a task"),
        record("CMAE", 12.5, task="A long name of a task"),
    ]
    records += [record("random", 1.0, task="b")]
    lines = markdown_table(rows_of(records, "CMAE")).splitlines()
    assert len(lines) == 4
    bars = [[i for i, c in enumerate(line) if c == "|"] for line in lines]
    assert all(b == bars[0] for b in bars)
    cells = [[c.strip() for c in line.strip("|").split("|")] for line in lines]
    assert cells[0] == ["task", "protocol", "metric", "random init", "CMAE", "difference", "seeds", "verdict"]
    assert set("".join(cells[1])) == {"-"}
    assert cells[2] == ["A long name of a task", "p", "box AP", "10.0", "12.5", "+2.5", "1", "CMAE wins"]
    assert cells[3] == ["b", "p", "box AP", "1.0", "-", "-", "0", "not finished"]


def test_csv_survives_the_csv_module():
    value = 0.1 + 0.2
    records = [record("CMAE", value, task='COCO, "full"\nand more'), record("random", 1.0, extra="left out")]
    rows = list(csv.DictReader(io.StringIO(csv_table(records))))
    assert rows[0]["task"] == 'COCO, "full"\nand more'
    assert float(rows[0]["value"]) == value
    assert rows[0]["config"] == "a, b.py"
    assert rows[0]["backbone_sha256"] == ""
    assert "extra" not in rows[1]
    assert list(csv.DictReader(io.StringIO(csv_table([])))) == []


@pytest.fixture
def run(tmp_path):
    """A work dir of a run that was killed and resumed; some log lines are damaged."""
    for day, lines in (
        (
            "20260101",
            [
                '{"step": 1, "loss": 3.0, "loss_rec": 2.0, "loss_con": 1.0}',
                '{"step": 2, "loss": 2.5}',
                '{"step": 3, "lo',
            ],
        ),
        (
            "20260102",
            [
                '{"step": 2, "loss": 2.0}',
                "17",
                "null",
                '"loss"',
                "[]",
                '{"accuracy/top1": 50.0, "step": 1}',
                '{"loss": 9.0}',
            ],
        ),
    ):
        folder = tmp_path / "run" / day / "vis_data"
        folder.mkdir(parents=True)
        (folder / "scalars.json").write_text("\n".join(lines) + "\n")
    with open(folder / "scalars.json", "ab") as handle:
        handle.write(b'\xff\xfe\x00{"step": 4,')
    return tmp_path / "run"


def test_damaged_lines_are_left_out_and_later_ones_win(run):
    assert series(read_scalars(run), "loss") == ([1, 2], [3.0, 2.0])
    assert series(read_scalars(run), "accuracy/top1") == ([1], [50.0])
    assert read_scalars(run / "none") == []


def test_curves_are_drawn_whatever_there_is(run, tmp_path):
    runs = {
        "Pretraining": {"CMAE": run},
        "COCO": {"CMAE": run, "random": tmp_path / "none"},
        "c": {},
        "d": {"x": run},
    }
    draw_curves(runs, tmp_path / "new" / "curves.png")
    image = cv2.imread(str(tmp_path / "new" / "curves.png"))
    assert image.shape[0] > 300
    assert image.std() > 5  # not blank


def test_report_holds_table_notes_and_pictures(run, tmp_path):
    recipe = types.SimpleNamespace(title="A title", pretrain=types.SimpleNamespace(method="CMAE"))
    pictures = tmp_path / "out" / "pictures"
    pictures.mkdir(parents=True)
    for name in ("coco-predictions.png", "views-seed0.png", "unknown.png"):
        (pictures / name).write_bytes(b"")
    records = [record("random", 1.0, commit=None), record("CMAE", 2.0), record("CMAE", 3.0, seed=4)]
    report, table = write_report(recipe, records, {"COCO": {"CMAE": run}}, tmp_path / "out")
    text = report.read_text()
    assert text.startswith("# A title\n")
    assert table in text
    assert "- seeds: 0, 4\n" in text
    assert "- commit: abc, unknown" in text
    for name in ("coco-predictions", "views-seed0", "unknown", "curves"):
        assert f"(pictures/{name}.png)" in text
    assert (tmp_path / "out" / "table.md").read_text() == table + "\n"
    assert len(list(csv.DictReader((tmp_path / "out" / "table.csv").open()))) == 3


def test_report_of_nothing(tmp_path):
    recipe = types.SimpleNamespace(title="A title", pretrain=types.SimpleNamespace(method="CMAE"))
    report, _ = write_report(recipe, [], {"a": {"CMAE": tmp_path}}, tmp_path)
    assert "No run is finished yet." in report.read_text()
