"""Markdown, CSV, LaTeX and JSON are read back by small parsers of their own; hostile strings stay text."""

import csv
import html
import io
import json
import re

import pytest
from report_sample import ADE_TASK, COCO, COCO_TASK, MIOU, make_record, sample_records, write_benchmark

from cmae_mm.report.command import table_text
from cmae_mm.report.formats import cells, clean, csv_text, json_text, latex, markdown, signed, tex
from cmae_mm.report.published import load_published
from cmae_mm.report.records import read_benchmark
from cmae_mm.report.rows import make_rows

BOOK = load_published()
HOSTILE = (
    "<script>alert(1)</script>",
    'a"onmouseover="x',
    "|| a | b ||",
    "[link](javascript:alert(1))",
    "=cmd|' /C calc'!A0",
    "\\input{/etc/passwd} $x$ %#&_^~{}",
    "line\nbreak\ttab\x00\x1b[31m",
    "\u202eevil\u202c \u200b zero",
    "{{ 7*7 }} {% raw %} ${x} `x`",
    "Größe ± † 模型",
)


def rows_of(tmp_path, records=None, references=False):
    return make_rows(read_benchmark(write_benchmark(tmp_path, records or sample_records())), BOOK, references)


@pytest.fixture
def hostile(tmp_path):
    """Rows whose every text is hostile."""
    records = [
        make_record(
            text,
            0,
            {COCO: 0.5 + place / 100},
            (text, "DET-VITDET", text),
            text,
            variant=text,
            name=str(place),
        )
        for place, text in enumerate(HOSTILE)
    ]
    failed = make_record("a|b", 0, {}, name="f") | {"status": "failed", "reason": "<b>|\n=1+1"}
    return rows_of(tmp_path, [*records, failed])


def split_markdown(line):
    """Cells of a line of a Markdown table, as a renderer would show them."""
    assert line.startswith("| ")
    assert line.endswith(" |")
    parts = re.split(r"(?<!\\)\|", line[1:-1])
    return [html.unescape(re.sub(r"\\([\\`*|\[\]~])", r"\1", part.strip())) for part in parts]


def split_latex(line):
    """Cells of a line of a tabular, with every escape undone."""
    assert line.endswith(r" \\")
    undo = {
        r"\textbackslash{}": "\\",
        r"\textasciicircum{}": "^",
        r"\textasciitilde{}": "~",
        r"\textless{}": "<",
    }
    undo |= {
        r"\textgreater{}": ">",
        r"\textbar{}": "|",
        r"\textquotedbl{}": '"',
        r"$\pm$": "±",
        r"$^\dagger$": "†",
    }
    undo |= {"\\" + c: c for c in "{}$&#%_"}
    pattern = "|".join(map(re.escape, sorted(undo, key=len, reverse=True)))
    parts = re.split(r"(?<!\\)&", line[:-3])
    return [re.sub(pattern, lambda m: undo[m.group()], part.strip()) for part in parts]


def test_clean_is_one_line_of_visible_text():
    assert clean("a\n b\x00\u202ec\ud800 ") == "a b c"
    assert clean("Größe ± 模型") == "Größe ± 模型"
    assert [signed(v) for v in (0.126, -0.126, 0.0, -0.001, None)] == ["+0.13", "-0.13", "0.00", "0.00", ""]


@pytest.mark.parametrize("which", ["sample", "hostile"])
def test_markdown_round_trip(tmp_path, hostile, which):
    rows = hostile if which == "hostile" else rows_of(tmp_path / "sample", references=True)
    lines = markdown(rows).splitlines()
    wanted = cells(rows)
    assert len(lines) == len(wanted) + 1 == len(rows) + 2
    assert set(lines[1]) == {"|", "-"}
    found = [split_markdown(line) for line in (lines[0], *lines[2:])]
    assert found == [[cell or "-" for cell in line] for line in wanted]
    assert len({len(line) for line in lines}) == 1
    assert "<" not in "".join(lines)


def test_markdown_leaves_out_empty_columns(tmp_path):
    rows = rows_of(
        tmp_path, [make_record(backbone="ViT-mini/8", task=("COCO", "mini-vitdet", ""), epochs=None)]
    )
    assert cells(rows)[0] == ["task", "protocol", "method", "backbone", "metric", "measured", "seeds"]
    assert cells(rows)[1] == ["COCO", "mini-vitdet", "CMAE", "ViT-mini/8", "box AP", "52.40", "1"]


def test_csv_round_trip_at_full_precision(tmp_path):
    records = [make_record("MAE", s, {COCO: v}) for s, v in enumerate((0.1 + 0.2, 0.5, 1 / 3))]
    rows = rows_of(tmp_path, records)
    lines = list(csv.DictReader(io.StringIO(csv_text(rows, BOOK))))
    assert [float(line["last"]) for line in lines] == [
        record["metrics"][COCO]["last"] * 100 for record in records
    ]
    assert {float(line["mean"]) for line in lines} == {rows[0].mean}
    assert {float(line["delta"]) for line in lines} == {rows[0].delta}
    assert lines[0]["published"] == "51.6"
    assert lines[0]["source"] == "facebookresearch/detectron2"
    assert [line["seed"] for line in lines] == ["0", "1", "2"]
    assert list(csv.DictReader(io.StringIO(csv_text([], BOOK)))) == []


def test_csv_holds_no_formula(hostile):
    lines = list(csv.DictReader(io.StringIO(csv_text(hostile, BOOK))))
    assert len(lines) == len(HOSTILE) + 1
    assert lines[-1]["note"] == "<b>| =1+1"
    for line in lines:
        for key, cell in line.items():
            assert "\n" not in cell
            assert cell[:1] not in tuple("=+-@") or float(cell) < 0, key
    assert "'=cmd|' /C calc'!A0" in {line["method"] for line in lines}


@pytest.mark.parametrize("which", ["sample", "hostile"])
def test_latex_round_trip(tmp_path, hostile, which):
    rows = hostile if which == "hostile" else rows_of(tmp_path / "sample", references=True)
    text = latex(rows)
    tables = text.split(r"\begin{table}[t]")[1:]
    assert len(tables) == len({row.protocol.key for row in rows})
    for table in tables:
        assert table.count(r"\toprule") == table.count(r"\bottomrule") == 1
        lines = [line for line in table.splitlines() if line.endswith(r" \\")]
        found = [split_latex(line) for line in lines]
        key = next(p for p in {row.protocol.key for row in rows} if f"({p})" in table)
        wanted = cells([row for row in rows if row.protocol.key == key])
        keep = [i for i, title in enumerate(wanted[0]) if title not in ("task", "protocol")]
        assert found == [[line[i] for i in keep] for line in wanted]
        columns = re.search(r"\\begin\{tabular\}\{([lr]+)\}", table).group(1)
        assert {len(line) for line in found} == {len(columns)}


def test_no_command_of_latex_comes_from_a_record():
    for text in HOSTILE:
        rest = re.sub(r"\\text[a-z]+\{\}|\\[{}$&#%_]|\$\\pm\$|\$\^\\dagger\$", "", tex(clean(text)))
        assert not set(rest) & set("\\{}$&#%_^~"), text


def test_json_holds_everything_at_full_precision(tmp_path):
    rows = rows_of(tmp_path, references=True)
    value = json.loads(json_text(rows, BOOK, ["p"]))
    assert value["problems"] == ["p"]
    assert len(value["rows"]) == len(rows)
    for entry, row in zip(value["rows"], rows, strict=True):
        assert (entry["last"], entry["mean"], entry["delta"]) == (list(row.values), row.mean, row.delta)
        assert [n["value"] for n in entry["published"]] == [
            n.value for n in filter(None, (row.published, *row.others))
        ]


def test_spread_over_seeds_is_shown(tmp_path):
    records = [make_record("MAE", s, {MIOU: v}, ADE_TASK) for s, v in enumerate((47.0, 48.0, 52.0))]
    (row,) = rows_of(tmp_path, records)
    # mean 49; deviations -2, -1, 3: sqrt((4 + 1 + 9) / 2) = 2.65 (over n it would be 2.16)
    shown = dict(zip(*cells([row]), strict=True))
    assert (shown["measured"], shown["seeds"]) == ("49.00 ± 2.65", "3")
    # t(2) = 4.303; 4.303 x 2.6458 x sqrt(4/3) = 13.15
    assert row.limit.value == pytest.approx(13.145, abs=2e-3)
    assert (shown["published"], shown["delta"], shown["verdict"]) == ("48.1", "+0.90", "within noise")


def test_the_legend_says_only_what_is_needed(tmp_path):
    out = write_benchmark(tmp_path / "a", [make_record(task=("x", "mini-vitdet", ""))])
    assert "†" not in table_text(out)
    assert table_text(out).count("\n\n") == 1
    failed = make_record("MAE", 0, {}) | {"status": "failed", "reason": "out of [memory]"}
    out = write_benchmark(tmp_path / "b", [make_record(task=COCO_TASK), failed])
    (out / "records" / "x.json").write_text("{")
    text = table_text(out)
    assert "†: protocol" in text
    assert "Failed: coco-mae--1600-seed0: out of \\[memory\\]" in text
    assert "Left out: x.json: not a record" in text
