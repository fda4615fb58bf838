"""Curves: logs of killed runs, thinning, ticks, and SVG that is well-formed and truly drawn."""

import random
import xml.etree.ElementTree as ET

import pytest

from cmae_mm.report.curves import draw, read_scalars, series, short, thin, ticks


@pytest.fixture
def run(tmp_path):
    """A work dir of a run that was killed and resumed; some log lines are damaged."""
    first = ['{"step": 1, "loss": 3.0, "loss_rec": 2.0}', '{"step": 2, "loss": 2.5}', '{"step": 3, "lo']
    second = ['{"step": 2, "loss": 2.0}', "17", "null", '"loss"', "[]", '{"accuracy/top1": 50.0, "step": 1}']
    second += [
        '{"loss": 9.0}',
        '{"step": 4, "loss": NaN}',
        '{"step": 5, "loss": "x"}',
        '{"step": 6, "loss": 1e999}',
    ]
    for day, lines in (("20260101", first), ("20260102", second)):
        folder = tmp_path / "run" / day / "vis_data"
        folder.mkdir(parents=True)
        (folder / "scalars.json").write_text("\n".join(lines) + "\n")
    with open(folder / "scalars.json", "ab") as handle:
        handle.write(b'\xff\xfe\x00{"step": 4,\n{"step": 7, "loss": ' + b"1" * 400 + b"}\n")
    return tmp_path / "run"


def test_damaged_lines_are_left_out_and_later_ones_win(run):
    assert series(read_scalars(run), "loss") == ([1, 2], [3.0, 2.0])
    assert series(read_scalars(run), "accuracy/top1") == ([1], [50.0])
    assert series(read_scalars(run / "20260101/vis_data/scalars.json"), "loss")[1] == [3.0, 2.5]
    assert read_scalars(run / "none") == []


@pytest.mark.parametrize("count", [1, 159, 160, 161, 5000])
def test_thinning_keeps_the_mean_and_the_last_point(count):
    draw_ = random.Random(count)
    steps, values = list(range(count)), [draw_.random() for _ in range(count)]
    places, means = thin((steps, values))
    assert len(places) == len(means) <= 160
    assert places[-1] == steps[-1]
    assert list(places) == sorted(set(places))
    if count <= 160:
        assert (places, means) == (steps, values)
    assert sum(means) / len(means) == pytest.approx(sum(values) / count, abs=0.02)


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (0.3, 2.9), (-5, 5), (1e-7, 3e-7), (0, 184375), (99.9, 100.1)]
)
def test_ticks_are_round_and_inside(low, high):
    found = ticks(low, high)
    assert 2 <= len(found) <= 9
    slack = (high - low) * 1e-6
    assert all(low - slack <= tick <= high + slack for tick in found)
    step = found[1] - found[0]
    digit = float(f"{step:e}".split("e")[0])
    assert any(digit == pytest.approx(d) for d in (1, 2, 5, 10))


def test_short_numbers():
    assert [short(v) for v in (0.30000000000000004, 1500, 2e6, 0, -2000, 0.05)] == [
        "0.3",
        "1.5k",
        "2M",
        "0",
        "-2k",
        "0.05",
    ]


def test_a_chart_is_well_formed_and_its_line_follows_the_values():
    hostile = '"><script>alert(1)</script>&'
    chart = draw(
        hostile,
        hostile,
        {hostile: ([0, 10, 20], [1.0, 3.0, 2.0]), "one point": ([1], [1.0]), "none": ([], [])},
    )
    root = ET.fromstring(chart.svg)
    assert root.get("role") == "img"
    assert hostile in root.get("aria-label")
    assert "ends at 2" in root.get("aria-label")
    assert {element.tag for element in root.iter()} == {"svg", "g", "line", "text", "polyline"}
    points = [tuple(map(float, p.split(","))) for p in root.find("polyline").get("points").split()]
    xs, ys = zip(*points, strict=True)
    assert xs[1] - xs[0] == pytest.approx(xs[2] - xs[1], abs=0.1)
    assert (ys[0] - ys[1]) == pytest.approx(
        2 * (ys[0] - ys[2]), abs=0.1
    )  # up is smaller y; 1 -> 3 is twice 1 -> 2
    assert chart.legend == ((0, hostile),)


def test_flat_and_empty_lines():
    assert draw("t", "y", {"a": ([], []), "b": ([1], [2.0])}) is None
    for values in ([0.0, 0.0], [5.0, 5.0]):
        assert "NaN" not in draw("t", "y", {"a": ([1, 2], values)}).svg.replace("nan", "NaN")
