"""The report: one HTML page with everything inside, filled from records by templates/report.html."""

from __future__ import annotations

import base64
import hashlib
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmae_mm.report.curves import Chart, draw, read_scalars, series
from cmae_mm.report.formats import clean, name_of, signed
from cmae_mm.report.media import Embedded, embed, inside
from cmae_mm.report.published import Book, Protocol, Published, Source
from cmae_mm.report.records import Benchmark, Record
from cmae_mm.report.rows import FLAGS, Row

TEMPLATES = Path(__file__).with_name("templates")
KINDS = {
    "reconstructions": "Reconstruction",
    "detections": "Detection",
    "segmentation": "Segmentation",
    "views": "Views",
    "data": "Data",
    "other": "Picture",
}
CAPTIONS = {
    "reconstructions": "master crop, online view, target view, masked input, reconstruction",
    "detections": "ground truth, then the best detections with scores in %",
    "segmentation": "image, ground truth, prediction, errors in red",
    "views": "master crop, online view, target view, masked input, reconstruction",
    "data": "samples of the data",
    "other": "of the run",
}
"""For pictures whose record gives no caption."""
_MAX_PICTURES = 48 << 20
_CURVES = (("loss", "training loss"),)
_PRETRAIN_CURVES = (*_CURVES, ("loss_rec", "reconstruction loss"), ("loss_con", "contrastive loss"))


@dataclass(frozen=True)
class Section:
    """The table of one protocol."""

    task: str
    protocol: Protocol
    rows: tuple[Row, ...]
    random: bool
    compares: bool
    metrics: int
    noise: str


@dataclass(frozen=True)
class Figure:
    """A picture in the page."""

    picture: Embedded
    kind: str
    caption: str
    run: str


@dataclass(frozen=True)
class Group:
    """The runs of one task and method, one a seed."""

    title: str
    runs: tuple[Record, ...]

    @property
    def shared(self) -> list[tuple[str, str]]:
        """Facts that are the same for every run."""
        others = [facts(run) for run in self.runs[1:]]
        return [fact for fact in facts(self.runs[0]) if all(fact in other for other in others)]

    def own(self, run: Record) -> list[tuple[str, str]]:
        """Returns: Facts of one run that differ from those of the others."""
        return [fact for fact in facts(run) if fact not in self.shared]


def render(benchmark: Benchmark, rows: Sequence[Row], book: Book) -> str:
    """Fill the page.

    Args:
        benchmark: Records with curves and pictures.
        rows: See :func:`cmae_mm.report.rows.make_rows`.
        book: Published numbers.

    Returns:
        HTML that loads nothing; a content security policy forbids it to.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalize,
    )
    environment.filters |= {"minus": _minus, "name": name_of, "command": command_text}
    environment.filters |= {"bar": noise_bar, "safe_svg": _markup, "values": _values}
    style, script = ((TEMPLATES / f"report.{kind}").read_text() for kind in ("css", "js"))
    figures, left_out = _figures(benchmark)
    return environment.get_template("report.html").render(
        benchmark=benchmark,
        problems=[*benchmark.problems, *left_out],
        sections=_sections(rows, book),
        open_rows=[row for row in rows if row.state in ("failed", "not run")],
        counts=_counts(benchmark, rows),
        charts=_charts(benchmark),
        figures=sorted(figures, key=lambda figure: list(KINDS).index(figure.kind)),
        kinds=KINDS,
        groups=_groups(benchmark),
        sources=_sources(rows, book),
        flags=FLAGS,
        book=book,
        style=_markup(style),
        script=_markup(script),
        style_hash=_sha256(style),
        script_hash=_sha256(script),
    )


def _finalize(value: Any) -> Any:
    """Strings lose control characters; what is markup already stays."""
    if value is None:
        return ""
    return clean(value) if type(value) is str else value


def _markup(text: str) -> Any:
    from markupsafe import Markup

    return Markup(text)


def _minus(value: float | None) -> str:
    return signed(value).replace("-", "\u2212")


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _sections(rows: Sequence[Row], book: Book) -> list[Section]:
    shown = [row for row in rows if row.state in ("measured", "published")]
    sections = []
    for key in dict.fromkeys((row.task, row.protocol) for row in shown):
        group = tuple(row for row in shown if (row.task, row.protocol) == key)
        random = any(row.over_random is not None for row in group)
        compares = any(row.published for row in group)
        metrics = len({row.metric.key for row in group})
        sections.append(Section(*key, group, random, compares, metrics, _noise_words(group, book)))
    return sections


def _noise_words(rows: Sequence[Row], book: Book) -> str:
    """Where the noise of a table comes from, in a sentence for each source."""
    words = []
    for row in rows:
        if row.delta is None:
            continue
        metric = row.metric.title
        if row.limit is None:
            text = f"{metric}: the noise of seeds is not known (one run, nothing published), so nothing is flagged."
        elif row.limit.noise is None:
            text = f"{metric}: noise from the measured spread over seeds."
        else:
            noise = row.limit.noise
            where = f"{book.sources[noise.source].title}, {noise.where}"
            text = f"{metric}: noise from {noise.runs} published runs, standard deviation {noise.std:.2f} ({where})."
        words.append(text)
    return " ".join(dict.fromkeys(words))


def _counts(benchmark: Benchmark, rows: Sequence[Row]) -> list[tuple[str, str]]:
    judged = [row for row in rows if row.delta is not None]
    beyond = [row for row in judged if row.flag in ("better", "worse")]
    runs = [record for record in benchmark.records if record.status == "done"]
    failed = len(benchmark.records) - len(runs)
    return [
        _plural(len(runs), "finished run"),
        _plural(len({record.seed for record in runs}), "seed"),
        ("rows measured", str(sum(row.state == "measured" for row in rows))),
        ("compared with published", str(len(judged))),
        ("beyond the noise of seeds", str(len(beyond))),
        *([_plural(failed, "failed run")] if failed else []),
    ]


def _plural(count: int, name: str) -> tuple[str, str]:
    return (name if count == 1 else f"{name}s"), str(count)


def noise_bar(row: Row) -> Any:
    """Returns: A small picture of the difference against the band that seeds explain; decoration beside the words."""
    if row.delta is None:
        return ""
    limit = row.limit.value if row.limit else 0.0
    reach = max(abs(row.delta), limit, 1e-9) * 1.2
    x, half = 32 + row.delta / reach * 30, limit / reach * 30
    band = (
        f'<rect class="band" x="{32 - half:.1f}" y="2" width="{2 * half:.1f}" height="8" rx="1"/>'
        if half
        else ""
    )
    line = '<line class="zero" x1="32" x2="32" y1="0" y2="12"/>'
    dot = f'<circle class="dot" cx="{x:.1f}" cy="6" r="2.6"/>'
    return _markup(f'<svg class="bar" viewBox="0 0 64 12" aria-hidden="true">{band}{line}{dot}</svg>')


def command_text(words: Sequence[str]) -> Any:
    """Returns: An argument list as one line for bash, escaped for HTML; blanks in it stay as they are."""
    from markupsafe import escape

    return escape(" ".join(map(_quote, words)))


def _quote(word: str) -> str:
    """Like shlex.quote; characters that cannot be seen are written as escapes."""
    if clean(word) == " ".join(word.split()) and not re.search(r"[^\S ]", word):
        return shlex.quote(word)
    plain = word.replace("\\", r"\\").replace("'", r"\'")
    return "$'" + "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in plain) + "'"


def _values(record: Record, book: Book) -> list[tuple[str, str, str]]:
    """Metric, last and best value of a run at four decimals."""
    found = []
    for raw, value in record.last.items():
        metric = book.metric(raw)
        scaled = [f"{v * metric.scale:.4f}" for v in (value, record.best[raw])]
        found.append((metric.label, scaled[0], scaled[1]))
    return found


def facts(record: Record) -> list[tuple[str, str]]:
    """Returns: What a run's number depends on, as names and texts."""
    texts, details = record.texts, record.details
    found = [
        ("config", texts["config"]),
        ("config SHA-256", texts["config_sha256"]),
        ("backbone file", texts["backbone_file"]),
        ("backbone SHA-256", texts["backbone_sha256"]),
        ("commit", texts["commit"]),
        ("data", _words(details.get("data"))),
        ("hardware", _words(details.get("hardware"))),
        ("packages", _words(details.get("packages"))),
        ("time", _duration(details.get("seconds"))),
        ("iterations", _words(details.get("iterations"))),
        ("peak memory", _memory(details.get("peak_memory_bytes"))),
        ("finished", _words(details.get("finished"))),
    ]
    return [(name, text) for name, text in found if text]


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_words(entry)}" for key, entry in value.items() if entry not in (None, ""))
    return "" if value is None else str(value)


def _duration(value: Any) -> str:
    if not isinstance(value, (int, float)) or not 0 <= value < 1e10:
        return ""
    hours, minutes = divmod(round(value) // 60, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {round(value) % 60:02d} s"


def _memory(value: Any) -> str:
    return f"{value / 2**30:.2f} GiB" if isinstance(value, (int, float)) and 0 < value < 2**60 else ""


def _title(record: Record) -> str:
    name = record.method + (f" ({record.variant})" if record.variant else "")
    return ", ".join(filter(None, (name, record.backbone, record.task or record.protocol)))


def _groups(benchmark: Benchmark) -> list[Group]:
    groups: dict[str, list[Record]] = {}
    for record in benchmark.records:
        groups.setdefault(_title(record), []).append(record)
    return [Group(title, tuple(sorted(runs, key=lambda run: run.seed))) for title, runs in groups.items()]


def _charts(benchmark: Benchmark) -> list[Chart]:
    """One chart for each task and scalar; a line for each method and seed."""
    logs: dict[tuple[str, str], dict[str, list[dict[str, float]]]] = {}
    for record in benchmark.records:
        task = record.task or ("Pretraining" if record.kind == "pretrain" else record.protocol)
        for name in record.curves:
            if path := inside(benchmark.root, name):
                variant = f" ({record.variant})" if record.variant else ""
                line = f"{record.method}{variant}, seed {record.seed}"
                logs.setdefault((task, record.kind), {}).setdefault(line, []).extend(read_scalars(path))
    charts = []
    for (task, kind), lines in logs.items():
        for key, words in _PRETRAIN_CURVES if kind == "pretrain" else _CURVES:
            charts.append(draw(task, words, {name: series(log, key) for name, log in lines.items()}))
    return [chart for chart in charts if chart]


def _figures(benchmark: Benchmark) -> tuple[list[Figure], list[str]]:
    """Pictures of all runs, each file once, and sentences on those that are left out."""
    figures: dict[Path, Figure] = {}
    left_out, total = [], 0
    for record in benchmark.records:
        for picture in record.pictures:
            path = inside(benchmark.root, picture.path)
            if path is None or path in figures:
                if path is None and (benchmark.root / picture.path).exists():
                    left_out.append(
                        f"{record.name}: picture {picture.path} lies outside the folder; left out"
                    )
                continue
            found = embed(path)
            if isinstance(found, str) or total + found.size > _MAX_PICTURES:
                left_out.append(
                    f"{record.name}: {found if isinstance(found, str) else 'too many pictures'}; left out"
                )
                continue
            total += found.size
            kind = picture.kind if picture.kind in KINDS else "other"
            figures[path] = Figure(found, kind, picture.caption or CAPTIONS[kind], _title(record))
    return list(figures.values()), list(dict.fromkeys(left_out))


def _sources(rows: Sequence[Row], book: Book) -> list[tuple[Source, list[Published]]]:
    """Sources of all published numbers in the tables, with the numbers that need a note."""
    found: dict[str, dict[Published, None]] = {}
    for row in rows:
        for number in (row.published, *row.others):
            if number is not None:
                found.setdefault(number.source, {})[number] = None
    return [(book.sources[key], [n for n in numbers if n.note]) for key, numbers in found.items()]
