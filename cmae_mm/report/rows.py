"""From records and published numbers to rows: means over seeds, differences, and whether seeds explain them."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath

from cmae_mm.report.noise import Limit, Noise, limit, spread
from cmae_mm.report.published import Book, Metric, Protocol, Published
from cmae_mm.report.records import RANDOM, Benchmark, Record

FLAGS = {
    "better": "better, beyond noise",
    "worse": "worse, beyond noise",
    "within": "within noise",
    "unknown": "noise not known",
}


@dataclass(frozen=True)
class Row:
    """One metric of one method under one protocol: measured over seeds, or published only.

    Attributes:
        task: Title of the task.
        protocol: What was done.
        metric: What was measured.
        method: Pretraining method.
        variant: Ablation; empty for the default.
        backbone: Architecture.
        epochs: Epochs of pretraining.
        seeds: Seeds of the runs, ascending; empty if nothing was measured.
        values: Value of the last evaluation for each seed.
        best: Best value for each seed.
        published: The number to compare with; None if none may be.
        others: Further published numbers that agree in everything.
        limit: The largest difference that seeds explain.
        over_random: Mean less that of random initialisation; None if there is none.
        state: measured, published, failed or not run.
        records: The runs behind it.
    """

    task: str
    protocol: Protocol
    metric: Metric
    method: str
    variant: str
    backbone: str
    epochs: int | None
    seeds: tuple[int, ...] = ()
    values: tuple[float, ...] = ()
    best: tuple[float, ...] = ()
    published: Published | None = None
    others: tuple[Published, ...] = ()
    limit: Limit | None = None
    over_random: float | None = None
    state: str = "measured"
    records: tuple[Record, ...] = field(default=(), repr=False)

    @property
    def mean(self) -> float | None:
        """Mean over seeds of the last values; None if nothing was measured."""
        return statistics.fmean(self.values) if self.values else None

    @property
    def std(self) -> float | None:
        """Sample standard deviation over seeds; None for fewer than two."""
        return spread(self.values)

    @property
    def delta(self) -> float | None:
        """Mean less the published value; None unless both are there."""
        return None if self.mean is None or self.published is None else self.mean - self.published.value

    @property
    def flag(self) -> str:
        """Key of :data:`FLAGS`, or empty if there is no difference to judge."""
        if self.delta is None:
            return ""
        if self.limit is None:
            return "unknown"
        if abs(self.delta) <= self.limit.value:
            return "within"
        return "better" if (self.delta > 0) == self.metric.higher else "worse"

    @property
    def sort_value(self) -> float | None:
        """What rows are ranked by: the measured mean, else the published value."""
        if self.mean is not None:
            return self.mean
        return self.published.value if self.published else None


def make_rows(benchmark: Benchmark, book: Book, references: bool = True) -> list[Row]:
    """Make every row of a benchmark's tables.

    Args:
        benchmark: Records.
        book: Published numbers.
        references: Whether published rows of the same protocol and backbone are added.

    Returns:
        Rows by protocol (in order of the records), metric, then value, the best first; then failed and not run ones.
    """
    rows = _measured(benchmark.records, book)
    rows = [_over_random(row, rows, book) for row in rows]
    added = _references(rows, book) if references else []
    protocols = list(dict.fromkeys(row.protocol.key for row in rows))
    metrics = list(dict.fromkeys((row.protocol.key, row.metric.key) for row in rows))
    rows += added
    rows.sort(key=lambda row: (protocols.index(row.protocol.key), metrics.index(_kind(row)), _place(row)))
    return [*rows, *_open(benchmark, book)]


def _kind(row: Row) -> tuple[str, str]:
    return row.protocol.key, row.metric.key


def _place(row: Row) -> float:
    value = row.sort_value or 0.0
    return -value if row.metric.higher else value


def _measured(records: Sequence[Record], book: Book) -> list[Row]:
    groups: dict[tuple[str, ...], list[Record]] = {}
    for record in records:
        if record.status != "done" or record.kind == "pretrain":
            continue
        for raw in record.main:
            groups.setdefault((*_identity(record, book), raw), []).append(record)
    rows = []
    for key, group in groups.items():
        found = sorted(group, key=lambda record: (record.seed, record.name))
        rows.append(_row(found, book, key[-1]))
    for word in (_weights, _config):  # rows that look the same are told apart by these
        shown = Counter(map(_shown, rows))
        rows = [_tell(row, word(row.records[0])) if shown[_shown(row)] > 1 else row for row in rows]
    return rows


def _shown(row: Row) -> tuple[object, ...]:
    return (row.task, *_kind(row), row.method, row.variant, row.backbone, row.epochs)


def _weights(record: Record) -> str:
    return {"here": "pretrained here", "given": "given weights"}.get(record.texts["weights"], "")


def _config(record: Record) -> str:
    return PurePath(record.texts["config"]).stem


def _tell(row: Row, word: str) -> Row:
    return _with(row, variant=", ".join(filter(None, (row.variant, word))))


def _identity(record: Record, book: Book) -> tuple[str, ...]:
    names = (book.plain(record.method), book.plain(record.variant), book.plain(record.backbone))
    who = (record.task, book.protocol(record.protocol).key, *names, str(record.epochs))
    return (*who, record.data, record.texts["weights"], record.texts["config"])


def _row(records: Sequence[Record], book: Book, raw: str) -> Row:
    first, metric = records[0], book.metric(raw)
    values = tuple(record.last[raw] * metric.scale for record in records)
    variant, backbone = first.variant, first.backbone
    protocol = book.protocol(first.protocol)
    found = book.find(protocol.key, metric.key, first.method, variant, backbone, first.epochs, first.data)
    return Row(
        task=first.task or protocol.task,
        protocol=protocol,
        metric=metric,
        method=first.method,
        variant=variant,
        backbone=backbone,
        epochs=first.epochs,
        seeds=tuple(record.seed for record in records),
        values=values,
        best=tuple(record.best[raw] * metric.scale for record in records),
        published=found[0] if found else None,
        others=tuple(found[1:]),
        limit=limit(values, _noise(book, protocol.key, metric.key, backbone)),
        records=tuple(records),
    )


def _noise(book: Book, protocol: str, metric: str, backbone: str) -> Noise | None:
    for noise in book.noise:
        fits = not noise.backbone or book.same(noise.backbone, backbone)
        if fits and (noise.protocol, noise.metric) == (protocol, metric):
            return noise
    return None


def _over_random(row: Row, rows: Sequence[Row], book: Book) -> Row:
    """Add the difference to random initialisation, in the same task, protocol, backbone and metric."""
    for other in rows:
        same = (other.task, *_kind(other)) == (row.task, *_kind(row)) and book.same(
            other.backbone, row.backbone
        )
        if same and book.same(other.method, RANDOM) and other is not row and row.mean is not None:
            return _with(row, over_random=row.mean - statistics.fmean(other.values))
    return row


def _with(row: Row, **changes: object) -> Row:
    return Row(**{**row.__dict__, **changes})  # type: ignore[arg-type]


def _references(rows: Sequence[Row], book: Book) -> list[Row]:
    """Published rows of the same protocol, metric and backbone that nothing measured stands beside."""
    added: dict[tuple[object, ...], Row] = {}
    taken = {id(number) for row in rows for number in (row.published, *row.others)}
    for row in rows:
        same = [n for n in book.results if (n.protocol, n.metric) == _kind(row) and n.confidence != "unsure"]
        variants = {book.plain(r.variant) for r in rows if _kind(r) == _kind(row)}
        for number in sorted(same, key=lambda n: n.rank):
            if id(number) in taken or not book.same(number.backbone, row.backbone):
                continue
            if book.plain(number.variant) not in variants | {""}:
                continue
            who = (book.plain(number.method), book.plain(number.variant), book.plain(number.backbone))
            key = (*_kind(row), *who, number.epochs, number.data)
            if key not in added:
                added[key] = _reference(row, number)
    return list(added.values())


def _reference(row: Row, number: Published) -> Row:
    names = (number.method, number.variant, number.backbone, number.epochs)
    return Row(row.task, row.protocol, row.metric, *names, published=number, state="published")


def _open(benchmark: Benchmark, book: Book) -> list[Row]:
    """Rows for failed runs and for planned ones without any record."""
    rows = []
    for record in benchmark.records:
        if record.status != "done":
            protocol = book.protocol(record.protocol)
            who = (record.method, record.variant, record.backbone, record.epochs)
            task = record.task or protocol.task
            row = Row(task, protocol, _NONE, *who, seeds=(record.seed,), state="failed", records=(record,))
            rows.append(row)
    known = {_identity(record, book)[:6] for record in benchmark.records}
    for plan in benchmark.planned:
        protocol = book.protocol(_field(plan, "protocol"))
        method, variant, backbone = (_field(plan, key) for key in ("method", "variant", "backbone"))
        epochs = plan["epochs"] if isinstance(plan.get("epochs"), int) else None
        names = (book.plain(method), book.plain(variant), book.plain(backbone), str(epochs))
        task = _field(plan, "task")
        if (task, protocol.key, *names) not in known:
            who = (method, variant, backbone, epochs)
            rows.append(Row(task or protocol.task, protocol, _NONE, *who, state="not run"))
    return rows


_NONE = Metric("", "")


def _field(plan: Mapping[str, object], key: str) -> str:
    value = plan.get(key)
    return value.strip() if isinstance(value, str) else ""
