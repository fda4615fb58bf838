"""Records are read as untrusted input: damage is told, the rest makes a table."""

import json
import random

import pytest
from report_sample import COCO, make_record, write_benchmark

from cmae_mm.errors import UserError
from cmae_mm.report.media import Embedded, embed, inside
from cmae_mm.report.records import locate, parse, read_benchmark

PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 8 + (7).to_bytes(4, "big") + (5).to_bytes(4, "big") + b"\0" * 9


def test_a_record_keeps_everything():
    value = make_record(
        values={COCO: 0.1 + 0.2}, variant="color-none", curves=["a"], pictures=[{"path": "p"}]
    )
    record = parse(value)
    assert record.last[COCO] == 0.1 + 0.2
    assert record.best[COCO] == 0.1 + 0.2 + 1e-4
    assert (record.variant, record.seed, record.epochs, record.curves) == ("color-none", 0, 1600, ("a",))
    assert record.pictures[0].kind == "other"
    assert record.commands == (tuple(value["command"]),)
    assert record.details["hardware"] == {"device": "NVIDIA H100", "processes": 8}


def test_little_is_enough():
    record = parse({"name": "a", "protocol": "p", "method": "m", "seed": 1, "metrics": {"x": {"last": 1}}})
    assert (record.main, record.best, record.status, record.kind) == (("x",), {"x": 1.0}, "done", "transfer")
    assert record.commands == ()


def test_several_commands_in_order():
    record = parse(make_record(command=[["a", "b"], ["c", 1]]))
    assert record.commands == (("a", "b"), ("c", "1"))


@pytest.mark.parametrize(
    "damage",
    [
        {"metrics": {"x": {"last": float("nan")}}},
        {"metrics": {"x": {"last": 10**400}}},
        {"metrics": {"x": {"last": True}}},
        {"metrics": {"x": {"last": "1"}}},
        {"metrics": {"x": {}}},
        {"metrics": {"x": 1}},
        {"metrics": [1]},
        {"seed": "0"},
        {"epochs": 1.5},
        {"method": ""},
        {"name": None},
    ],
)
def test_a_damaged_record_is_left_out_and_named(tmp_path, damage):
    write_benchmark(tmp_path, [make_record(), make_record(seed=1) | damage])
    benchmark = read_benchmark(tmp_path)
    assert [record.seed for record in benchmark.records] == [0]
    (problem,) = benchmark.problems
    assert problem.startswith("01.json: not a record (")


def test_files_that_are_no_records(tmp_path):
    write_benchmark(tmp_path, [make_record(), make_record(seed=1) | {"name": make_record()["name"]}])
    for name, content in {
        "a": b"{",
        "b": b"[]",
        "c": b"\xff\xfe",
        "d": b"[" * 100_000,
        "e": b"17",
        "f": b"{}",
    }.items():
        (tmp_path / "records" / f"{name}.json").write_bytes(content)
    benchmark = read_benchmark(tmp_path)
    assert len(benchmark.records) == 1
    assert len(benchmark.problems) == 7
    assert "a second record is named" in benchmark.problems[0]


def test_random_damage_never_stops_the_reader(tmp_path):
    draw = random.Random(0)
    text = json.dumps(make_record())
    odd = [None, [], {}, "", 0, -1, 1e999, True, "\ud800", [[]], {"a": [None]}]
    for _ in range(150):
        value = json.loads(text)
        for key in draw.sample(sorted(value), 3):
            value[key] = draw.choice(odd)
        (tmp_path / "one.json").write_text(json.dumps(value))
        benchmark = read_benchmark(tmp_path)
        assert len(benchmark.records) + len(benchmark.problems) == 1


def test_order_and_title_come_from_the_benchmark(tmp_path):
    records = [make_record(seed=seed) for seed in (0, 1, 2)]
    about = {"title": "T", "note": 3, "records": [records[2]["name"], records[0]["name"]], "planned": [1, {}]}
    benchmark = read_benchmark(write_benchmark(tmp_path, records, about))
    assert [record.seed for record in benchmark.records] == [2, 0, 1]
    assert (benchmark.title, benchmark.note, benchmark.planned) == ("T", "", ({},))
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('title = "of the recipe"')
    (tmp_path / "benchmark.json").write_text("{")
    assert read_benchmark(tmp_path, recipe).title == "of the recipe"
    recipe.write_text("title = ")
    assert read_benchmark(tmp_path, recipe).title == tmp_path.name


def test_locate(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = write_benchmark(tmp_path / "work_dirs" / "bench" / "mini", [make_record()])
    recipe = tmp_path / "mini.toml"
    recipe.write_text("")
    assert locate(recipe).resolve() == out
    assert locate(out) == locate(out / "records") == out
    assert locate(recipe, out) == out
    (tmp_path / "loose").mkdir()
    (tmp_path / "loose" / "a.json").write_text("{}")
    assert locate(tmp_path / "loose") == tmp_path / "loose"
    (tmp_path / "other.toml").write_text("")
    for target, words in (
        ("absent", "no such"),
        ("other.toml", "run `cmae-mm bench`"),
        ("work_dirs", "name a folder"),
    ):
        with pytest.raises(UserError, match=words):
            locate(tmp_path / target)


def test_files_outside_are_refused(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret.png").write_bytes(PNG)
    (root / "own.png").write_bytes(PNG)
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    assert inside(root, "own.png") == (root / "own.png").resolve()
    for name in ("../secret.png", str(tmp_path / "secret.png"), "link.png", "absent.png", "a\0b", "x" * 5000):
        assert inside(root, name) is None, name


def test_only_pictures_are_embedded(tmp_path):
    from PIL import Image

    path = tmp_path / "a.png"
    path.write_bytes(PNG)
    found = embed(path)
    assert isinstance(found, Embedded)
    assert (found.width, found.height) == (7, 5)
    assert found.address.startswith("data:image/png;base64,iVBOR")
    for kind in ("jpeg", "webp"):
        Image.new("RGB", (31, 17)).save(path, kind)
        found = embed(path)
        assert isinstance(found, Embedded)
        assert found.address.startswith(f"data:image/{kind};")
        assert (found.width, found.height) == ((31, 17) if kind == "jpeg" else (0, 0))
    path.write_bytes(b"\xff\xd8\xff\xe0\xff")
    assert embed(path).width == 0
    path.write_bytes(b"<svg onload=alert(1)>")
    assert embed(path) == "a.png: neither PNG nor JPEG nor WebP"
    path.write_bytes(PNG + bytes(7 << 20))
    assert embed(path) == "a.png: 7 MiB is too large to embed"
    assert embed(tmp_path).endswith("not a file")
