"""Published numbers with their protocol, source and certainty, read from ``published.toml``."""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from cmae_mm.errors import UserError
from cmae_mm.report.noise import Noise

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FILE = Path(__file__).with_name("published.toml")
CONFIDENCES = ("sure", "inferred", "unsure")
KINDS = ("paper", "release", "quoted", "rerun")
_ROW_FIELDS = {"source", "where", "protocol", "kind", "confidence", "method", "backbone", "epochs", "variant"}
_ROW_FIELDS |= {"data", "note"}


@dataclass(frozen=True)
class Protocol:
    """What a protocol key means.

    Attributes:
        key: Written into configs and records.
        task: Data set or task.
        title: Short name.
        words: One to three sentences.
        schedule: Length of the training.
    """

    key: str
    task: str
    title: str
    words: str
    schedule: str


@dataclass(frozen=True)
class Metric:
    """How a metric is named, shown and read from a run.

    Attributes:
        key: Name in ``published.toml``.
        title: Name in tables.
        unit: Unit, or empty.
        raw: Keys that runs write it under.
        scale: Shown value by recorded value.
        higher: Whether a higher value is better.
    """

    key: str
    title: str
    unit: str = ""
    raw: tuple[str, ...] = ()
    scale: float = 1.0
    higher: bool = True

    @property
    def label(self) -> str:
        """Title with unit."""
        return f"{self.title} ({self.unit})" if self.unit else self.title


@dataclass(frozen=True)
class Source:
    """Where numbers were read: a short name, the title and, if known, the address."""

    key: str
    short: str
    title: str
    url: str = ""


@dataclass(frozen=True)
class Published:
    """One published number.

    Attributes:
        protocol: Protocol key.
        metric: Metric key.
        method: Pretraining method.
        backbone: Architecture.
        epochs: Epochs of pretraining; None: none, or not stated.
        variant: Ablation; empty for the method's default.
        data: Pretraining data.
        value: In the metric's unit.
        digits: Decimals that were printed.
        kind: paper (the method's own), quoted, release (released weights) or rerun (another code base).
        confidence: sure, inferred (protocol, backbone or epochs are a reading) or unsure (the value is doubtful).
        source: Key of the source.
        where: Place in the source.
        note: What to know about it.
    """

    protocol: str
    metric: str
    method: str
    backbone: str
    epochs: int | None
    variant: str
    data: str
    value: float
    digits: int
    kind: str
    confidence: str
    source: str
    where: str
    note: str

    @property
    def text(self) -> str:
        """The value with the decimals that were printed."""
        return f"{self.value:.{self.digits}f}"

    @property
    def rank(self) -> tuple[int, int]:
        """Lower is preferred: sure before inferred, the method's own paper before reruns."""
        return CONFIDENCES.index(self.confidence), KINDS.index(self.kind)


@dataclass(frozen=True)
class Book:
    """All of ``published.toml``."""

    protocols: Mapping[str, Protocol]
    metrics: Mapping[str, Metric]
    sources: Mapping[str, Source]
    noise: tuple[Noise, ...]
    results: tuple[Published, ...]
    aliases: Mapping[str, str]

    def same(self, one: str, other: str) -> bool:
        """Returns: Whether two names mean one method or backbone."""
        return self.plain(one) == self.plain(other)

    def plain(self, name: str) -> str:
        """Returns: A name in its plain form (:func:`squeeze`), other spellings replaced."""
        short = squeeze(name)
        return squeeze(self.aliases.get(short, name))

    def protocol(self, key: str) -> Protocol:
        """Returns: The protocol of a key; a placeholder that says so if there is none."""
        if key in self.protocols:
            return self.protocols[key]
        if key.startswith(("mini-", "small-")):
            words = "A reduced setting of this suite; compares with nothing published."
            return Protocol(key, "reduced scale", key, words, "as the recipe tells")
        words = "No description is known for this key, so nothing published is compared with it."
        return Protocol(key, "", key or "no protocol", words, "not stated")

    def metric(self, raw: str) -> Metric:
        """Returns: The metric that a run writes under a key; one of that name if it is not known."""
        for metric in self.metrics.values():
            if raw in metric.raw:
                return metric
        return Metric(raw, raw)

    def find(
        self,
        protocol: str,
        metric: str,
        method: str,
        variant: str,
        backbone: str,
        epochs: int | None,
        data: str,
    ) -> list[Published]:
        """Numbers that may be compared with a measured one.

        Args:
            protocol: Protocol key.
            metric: Metric key.
            method: Pretraining method.
            variant: Ablation.
            backbone: Architecture.
            epochs: Epochs of pretraining.
            data: Pretraining data.

        Returns:
            Every number that agrees in all of these and is not unsure, the preferred one first.
        """
        found = [
            row
            for row in self.results
            if (row.protocol, row.metric, row.epochs) == (protocol, metric, epochs)
            and row.confidence != "unsure"
            and self.same(row.method, method)
            and self.same(row.backbone, backbone)
            and self.same(row.variant, variant)
            and self.same(row.data, data)
        ]
        return sorted(found, key=lambda row: row.rank)


@functools.lru_cache(maxsize=4096)
def squeeze(name: str) -> str:
    """Returns: A name in lower case without blanks, hyphens and underscores; other marks stay (MAE+ is not MAE)."""
    return re.sub(r"[\s_-]+", "", name.casefold())


@functools.cache
def load_published(path: Path = FILE) -> Book:
    """Read published numbers.

    Args:
        path: A file in the format of ``published.toml``.

    Returns:
        Protocols, metrics, sources, noise and numbers.

    Raises:
        UserError: If something is missing, unknown or listed twice.
    """
    try:
        values = tomllib.loads(path.read_text(), parse_float=Decimal)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"{path}: cannot be read as published numbers ({error})") from None
    try:
        return _build(values)
    except (AttributeError, KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise UserError(f"{path}: not in the format of published numbers: {error}") from None


def _build(values: dict[str, Any]) -> Book:
    metrics = {key: _metric(key, **entry) for key, entry in values["metrics"].items()}
    protocols = {key: Protocol(key, **entry) for key, entry in values["protocols"].items()}
    sources = {key: Source(key, **entry) for key, entry in values["sources"].items()}
    results = [
        r for group in values["results"] for row in group["rows"] for r in _numbers(group, row, metrics)
    ]
    noise = tuple(Noise.build(**entry) for entry in values["noise"])
    aliases = {squeeze(name): target for name, target in values["aliases"].items()}
    book = Book(protocols, metrics, sources, noise, tuple(results), aliases)
    _check(book)
    return book


def _metric(key: str, raw: list[str], scale: Any = 1, **entry: Any) -> Metric:
    return Metric(key=key, raw=tuple(raw), scale=float(scale), **entry)


def _numbers(group: dict[str, Any], row: dict[str, Any], metrics: Mapping[str, Metric]) -> list[Published]:
    """One number for each metric of a row."""
    fields: dict[str, Any] = {
        "kind": "paper",
        "confidence": "sure",
        "epochs": None,
        "variant": "",
        "data": "ImageNet-1K",
    }
    fields |= {"note": "", **{k: v for k, v in group.items() if k != "rows"}}
    fields |= {k: v for k, v in row.items() if k not in metrics}
    if unknown := set(fields) - _ROW_FIELDS:
        raise ValueError(f"unknown field or metric {sorted(unknown)} in {row}")
    shown = {k: v for k, v in row.items() if k in metrics}
    if not shown:
        raise ValueError(f"no metric in {row}")
    return [Published(metric=k, value=float(v), digits=_digits(v), **fields) for k, v in shown.items()]


def _digits(value: Decimal | int) -> int:
    return max(0, -int(Decimal(value).as_tuple().exponent))


def _check(book: Book) -> None:
    seen: set[tuple[object, ...]] = set()
    for row in book.results:
        name = f"{row.method}, {row.backbone}, {row.protocol}, {row.metric}"
        if row.protocol not in book.protocols or row.source not in book.sources:
            raise ValueError(f"{name}: unknown protocol or source")
        if row.kind not in KINDS or row.confidence not in CONFIDENCES:
            raise ValueError(f"{name}: unknown kind or confidence")
        if row.confidence != "sure" and not row.note and row.kind == "paper" and not row.variant:
            raise ValueError(f"{name}: a value that is not sure needs a note")
        who = (book.plain(row.method), book.plain(row.backbone), row.epochs, row.variant, row.data)
        key = (*who, row.protocol, row.metric, row.source, row.where)
        if key in seen:
            raise ValueError(f"{name}: listed twice for one place of one source")
        seen.add(key)
    for noise in book.noise:
        if noise.protocol not in book.protocols or noise.metric not in book.metrics:
            raise ValueError(f"noise of {noise.protocol}, {noise.metric}: unknown protocol or metric")
