"""Tables from records: Markdown for people, CSV for spreadsheets, text for a terminal."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Row:
    """One metric of one task: a pretrained backbone beside random initialisation.

    Attributes:
        task: Name of the task.
        protocol: Protocol key; a row never mixes two.
        metric: Name and unit of the metric.
        method: Pretraining method.
        random: Values of random initialisation, one a seed.
        pretrained: Values of the pretrained backbone, one a seed.
    """

    task: str
    protocol: str
    metric: str
    method: str
    random: tuple[float, ...]
    pretrained: tuple[float, ...]

    @property
    def difference(self) -> float | None:
        """Mean of the pretrained values minus mean of the random ones; None if a side is empty."""
        if not (self.random and self.pretrained):
            return None
        return statistics.fmean(self.pretrained) - statistics.fmean(self.random)

    @property
    def verdict(self) -> str:
        """Which side has the higher mean."""
        if self.difference is None:
            return "not finished"
        if self.difference == 0:
            return "tie"
        return f"{self.method} wins" if self.difference > 0 else f"{self.method} does NOT win"


def rows_of(records: Sequence[dict[str, Any]], method: str) -> list[Row]:
    """Group records by task, protocol and metric, in their order.

    Args:
        records: See ``benchmark.records``.
        method: Pretraining method.

    Returns:
        One row a group.
    """
    groups: dict[tuple[str, str, str], dict[str, list[float]]] = {}
    for record in sorted(records, key=lambda r: r["seed"]):
        sides = groups.setdefault((record["task"], record["protocol"], record["metric"]), {})
        sides.setdefault(record["init"], []).append(record["value"])
    order = list(dict.fromkeys((r["task"], r["protocol"], r["metric"]) for r in records))
    return [
        Row(*key, method, tuple(groups[key].get("random", ())), tuple(groups[key].get(method, ())))
        for key in order
    ]


def spread(values: Sequence[float]) -> str:
    """Returns: Mean, and with several seeds the sample standard deviation, as text."""
    if not values:
        return "-"
    mean = f"{statistics.fmean(values):.1f}"
    return f"{mean} ± {statistics.stdev(values):.1f}" if len(values) > 1 else mean


def _cells(rows: Sequence[Row]) -> list[list[str]]:
    method = rows[0].method if rows else "pretrained"
    head = ["task", "protocol", "metric", "random init", method, "difference", "seeds", "verdict"]
    body = [
        [
            *(row.task, row.protocol, row.metric, spread(row.random), spread(row.pretrained)),
            "-" if row.difference is None else f"{row.difference:+.1f}",
            str(len(row.pretrained)),
            row.verdict,
        ]
        for row in rows
    ]
    return [head, *body]


def markdown_table(rows: Sequence[Row]) -> str:
    """Returns: The rows as a Markdown table whose columns are also aligned as plain text."""
    cells = _cells(rows)
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    lines = [
        "| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in cells
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]])


def csv_table(records: Sequence[dict[str, Any]]) -> str:
    """Returns: One CSV line a record, values at full precision."""
    names = (
        "task",
        "protocol",
        "metric",
        "init",
        "seed",
        "value",
        "best",
        "config",
        "commit",
        "backbone_sha256",
    )
    text = io.StringIO()
    writer = csv.DictWriter(text, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()
