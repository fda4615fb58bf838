"""The report: everything inside one page, nothing of a record is markup, and the same bytes every time."""

import base64
import hashlib
import json
import re
import subprocess
import types
from html.parser import HTMLParser

import pytest
from report_sample import COCO, make_record, picture, write_benchmark

from cmae_mm.cli import run
from cmae_mm.errors import UserError
from cmae_mm.report.command import write_report
from cmae_mm.report.page import command_text

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{7*7}}</style><!--"
VOID = {"meta", "link", "img", "br", "input", "line", "circle", "rect", "polyline"}


class Page(HTMLParser):
    """Tags with attributes, text, and whether every tag is closed in order."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.text = [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, tag

    def handle_data(self, data):
        if not {"script", "style"} & set(self.open):
            self.text.append(data)

    def named(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture(scope="module")
def page(benchmark_folder, tmp_path_factory):
    return write_report(benchmark_folder, tmp_path_factory.mktemp("report")).read_text()


def test_the_page_loads_nothing(page):
    found = Page(page)
    for tag, attrs in found.tags:
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            value = attrs.get(name) or ""
            assert value == "" or value.startswith(("#", "data:")) or (tag, name) == ("a", "href"), (
                tag,
                value,
            )
        assert "style" not in attrs
        assert not [name for name in attrs if name.startswith("on")]
    assert not re.search(r"@import|url\(", page)


def test_the_policy_names_the_style_and_the_script(page):
    (policy,) = (a["content"] for a in Page(page).named("meta") if "http-equiv" in a)
    assert policy.startswith("default-src 'none'; img-src data:;")
    for tag in ("style", "script"):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, flags=re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def test_the_page_tells_what_the_records_say(page):
    text = " ".join(" ".join(Page(page).text).split())
    for words in (
        "CMAE and MAE on ImageNet, COCO and ADE20K",
        "52.44",
        "within noise",
        "worse, beyond noise",
        "Mask R-CNN on a plain ViT",
        "DET-VITDET",
        "CUDA out of memory at iteration 1200",
        "not run MoCo v3",
        "python tools/train.py configs/coco/mask-rcnn_vitdet-b-p16_lsj-100e_coco.py --seed 2",
        "noise from 5 published runs, standard deviation 0.10",
        "protocol inferred: its MAE baseline",
        "10.90 GiB",
        "Every number on this page is made up",
    ):
        assert words in text, words
    found = Page(page)
    assert len([a for a in found.named("svg") if a.get("role") == "img"]) == 6
    pictures = [a for a in found.named("img") if a.get("src")]
    assert [a["alt"] for a in pictures] == [
        "Input and reconstruction",
        "Ground truth above detections",
        "Label maps above predictions",
    ]
    assert len(found.named("table")) == 3


def test_identifiers_are_unique_and_references_resolve(page):
    found = Page(page)
    ids = [attrs["id"] for _, attrs in found.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    for _, attrs in found.tags:
        for name in ("aria-labelledby", "for"):
            assert attrs.get(name) in (None, *ids)
        if (attrs.get("href") or "").startswith("#"):
            assert attrs["href"][1:] in ids
    for attrs in found.named("button") + found.named("a"):
        assert attrs.get("aria-label") != ""


def test_the_same_records_make_the_same_bytes(benchmark_folder, tmp_path):
    one, two = (write_report(benchmark_folder, tmp_path / name) for name in ("a", "b"))
    for path in one.parent.iterdir():
        assert path.read_bytes() == (two.parent / path.name).read_bytes()
    assert {p.name for p in one.parent.iterdir()} == {
        *("report.html", "table.md", "table.csv", "table.tex", "table.json")
    }


def test_nothing_of_a_record_becomes_markup(tmp_path):
    task = (HOSTILE, "DET-VITDET", HOSTILE)
    record = make_record(HOSTILE, 0, {COCO: 0.5, HOSTILE: 1.0}, task, HOSTILE, variant=HOSTILE, name=HOSTILE)
    record |= dict.fromkeys(("commit", "config_sha256", "backbone_file", "finished"), HOSTILE)
    record |= {
        "packages": {HOSTILE: HOSTILE},
        "hardware": HOSTILE,
        "data": [HOSTILE],
        "command": [HOSTILE, "\ud800"],
    }
    record |= {"pictures": [{"path": "a.png", "kind": HOSTILE, "caption": HOSTILE}], "curves": ["log.json"]}
    plain = make_record()
    failed = record | {"name": "f", "status": "failed", "reason": HOSTILE, "protocol": HOSTILE}
    picture(tmp_path / "a.png", 0)
    (tmp_path / "log.json").write_text('{"step": 1, "loss": 1}\n{"step": 2, "loss": 2}\n')
    out = write_benchmark(tmp_path, [record, plain, failed], {"title": HOSTILE, "note": HOSTILE})
    clean = write_report(write_benchmark(tmp_path / "clean", [plain]))
    text = write_report(out).read_text()
    found = Page(text)
    assert len(found.named("script")) == len(found.named("style")) == 1
    assert len(found.named("img")) == 2  # the picture, and the viewer's
    assert "".join(found.text).count("{{7*7}}") > 10
    assert "49" not in re.findall(r"<h1>(.*?)</h1>", text)[0]
    allowed = {tag for tag, _ in Page(clean.read_text()).tags} | {
        "img",
        "figure",
        "figcaption",
        "polyline",
        "ul",
        "li",
        "p",
    }
    assert {tag for tag, _ in found.tags} <= allowed | {"g", "text", "line", "svg", "b"}


def test_tables_have_only_the_columns_that_they_need(page, tmp_path):
    mini = make_record(backbone="ViT-mini/8", task=("COCO", "mini-vitdet", "x"))
    text = write_report(write_benchmark(tmp_path, [mini])).read_text()
    for words, everywhere in (
        ("Published</th>", 3),
        ("Difference</th>", 3),
        ("Over random</th>", 1),
        ("Measured</th>", 3),
    ):
        assert page.count(words) == everywhere
        assert text.count(words) == (words == "Measured</th>")
    for table in (page + text).split("<table>")[1:]:
        rows = [row.count("<td") + row.count("<th ") for row in table.split("</table>")[0].split("<tr")[1:]]
        assert len(set(rows)) == 1


def test_pictures_elsewhere_are_left_out_and_told(tmp_path):
    picture(tmp_path / "secret.png", 0)
    root = tmp_path / "root"
    paths = [{"path": "../secret.png"}, {"path": "note.txt"}, {"path": "absent.png"}]
    write_benchmark(root, [make_record(pictures=paths, curves=["../../etc", "absent"])])
    (root / "note.txt").write_text("text")
    text = write_report(root).read_text()
    assert "picture ../secret.png lies outside the folder" in text
    assert "note.txt: neither PNG nor JPEG nor WebP" in text
    assert "absent.png" not in text
    assert "data:image" not in text


def test_a_report_of_nothing_but_a_failed_run(tmp_path):
    failed = make_record("MAE", 0, {}) | {"status": "failed", "reason": "because", "command": None}
    text = write_report(write_benchmark(tmp_path, [failed])).read_text()
    assert "No run is finished yet." in text
    assert "The record names no command." in text
    Page(text)


@pytest.mark.parametrize(
    "words",
    [
        ["a", "b c", "it's", "", "$HOME", "`x`", "a\\b", "two  blanks", "*", "&&"],
        ["line\nbreak", "tab\t", "\x1b[31m", "\u202e", "Größe", "\x7f'\\"],
    ],
)
def test_commands_mean_the_same_to_a_shell(words):
    import html

    line = html.unescape(str(command_text(["printf", "%s\\0", *words])))
    assert line.isprintable()
    done = subprocess.run(["bash", "-c", line], capture_output=True, check=True, env={"LC_ALL": "C.UTF-8"})
    assert done.stdout.decode().split("\0")[:-1] == words


def test_table_and_report_commands(benchmark_folder, tmp_path, capsys, monkeypatch):
    assert run(["table", str(benchmark_folder)]) == 0
    assert "| SEG-UP" in capsys.readouterr().out
    assert run(["table", str(benchmark_folder / "records"), "--format", "json", "--measured-only"]) == 0
    states = {row["state"] for row in json.loads(capsys.readouterr().out)["rows"]}
    assert states == {"measured", "failed", "not run"}
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sample.toml").write_text("")
    with pytest.raises(UserError, match="holds no records"):
        run(["table", "sample.toml"])
    words = ["report", "sample.toml", "--work-dir", str(benchmark_folder), "--out", "r"]
    assert run(words) == 0
    assert capsys.readouterr().out == "report: r/report.html\n"
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        run([*words[:-1], "file"])
    for target in ("latex", "csv"):
        assert run(["table", str(benchmark_folder), "--format", target]) == 0
    assert "\\toprule" in capsys.readouterr().out


def test_templates_ship_with_the_package():
    import tomllib

    from cmae_mm.report import page, published

    with open(page.TEMPLATES.parents[2] / "pyproject.toml", "rb") as handle:
        patterns = tomllib.load(handle)["tool"]["setuptools"]["package-data"]["cmae_mm.report"]
    shipped = {path for pattern in patterns for path in page.TEMPLATES.parent.glob(pattern)}
    assert {published.FILE, *page.TEMPLATES.iterdir()} <= shipped
    assert isinstance(page, types.ModuleType)
