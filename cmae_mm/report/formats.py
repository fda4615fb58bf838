"""Rows as Markdown (also for a terminal), CSV, LaTeX with booktabs, and JSON. Every string is escaped."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from cmae_mm.report.published import Book
from cmae_mm.report.rows import FLAGS, Row

COLUMNS = {
    "task": "task",
    "protocol": "protocol",
    "method": "method",
    "backbone": "backbone",
    "epochs": "epochs",
    "metric": "metric",
    "measured": "measured",
    "seeds": "seeds",
    "random": "over random",
    "published": "published",
    "delta": "delta",
    "flag": "verdict",
}
_MARKDOWN = str.maketrans(
    {**{c: "\\" + c for c in "\\`*|[]~"}, "&": "&amp;", "<": "&lt;", ">": "&gt;", "\n": " ", "\r": " "}
)
_LATEX = {
    **{c: "\\" + c for c in "{}$&#%_"},
    "\\": r"\textbackslash{}",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "±": r"$\pm$",
    "†": r"$^\dagger$",
    "\u2212": "$-$",
}


def clean(text: str) -> str:
    """Returns: The text on one line, without control characters and without marks that change the direction of text."""
    return " ".join(
        re.sub(
            r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]+", " ", text
        ).split()
    )


def escape_markdown(text: str) -> str:
    """Returns: The text on one line, as plain text within Markdown."""
    return clean(text).translate(_MARKDOWN)


def name_of(row: Row) -> str:
    """Returns: Method, with its variant in brackets."""
    return f"{row.method} ({row.variant})" if row.variant else row.method


def measured(row: Row) -> str:
    """Returns: Mean and, with several seeds, the sample standard deviation."""
    if row.mean is None:
        return ""
    return f"{row.mean:.2f}" + (f" ± {row.std:.2f}" if row.std is not None else "")


def published(row: Row) -> str:
    """Returns: The published value as printed; a dagger where protocol, backbone or epochs are inferred."""
    if row.published is None:
        return ""
    return row.published.text + (" †" if row.published.confidence == "inferred" else "")


def signed(value: float | None) -> str:
    """Returns: A difference with its sign, or nothing."""
    if value is None:
        return ""
    text = f"{value:+.2f}"
    return "0.00" if float(text) == 0 else text


def verdict(row: Row) -> str:
    """Returns: What the difference means, or why there is no value."""
    if row.state in ("failed", "not run"):
        return row.state
    return FLAGS.get(row.flag, "")


_TEXTS: dict[str, Callable[[Row], str]] = {
    "task": lambda row: row.task,
    "protocol": lambda row: row.protocol.key,
    "method": name_of,
    "backbone": lambda row: row.backbone,
    "epochs": lambda row: "" if row.epochs is None else str(row.epochs),
    "metric": lambda row: row.metric.label,
    "measured": measured,
    "seeds": lambda row: str(len(row.seeds)) if row.seeds else "",
    "random": lambda row: signed(row.over_random),
    "published": published,
    "delta": lambda row: signed(row.delta),
    "flag": verdict,
}


def cells(rows: Sequence[Row]) -> list[list[str]]:
    """Text of every cell below a head; columns that are empty in every row are left out.

    Args:
        rows: The rows.

    Returns:
        The head, then one list for each row.
    """
    body = [[clean(_TEXTS[key](row)) for key in COLUMNS] for row in rows]
    used = [i for i in range(len(COLUMNS)) if not body or any(line[i] for line in body)]
    titles = list(COLUMNS.values())
    return [[line[i] for i in used] for line in [titles, *body]]


def markdown(rows: Sequence[Row]) -> str:
    """Returns: A Markdown table whose columns are also aligned as plain text."""
    lines = [[cell.translate(_MARKDOWN) or "-" for cell in line] for line in cells(rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = ["| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in lines]
    rule = "|" + "|".join("-" * (w + 2) for w in widths) + "|"
    return "\n".join([text[0], rule, *text[1:]])


def csv_text(rows: Sequence[Row], book: Book) -> str:
    """One line for each run and published number, values at full precision.

    A text that a spreadsheet would take for a formula gets an apostrophe in front.

    Args:
        rows: The rows.
        book: For the titles of sources.

    Returns:
        CSV with a head.
    """
    text = io.StringIO()
    lines = [line for row in rows for line in _flat(row, book)]
    names = list(lines[0]) if lines else list(_flat_head())
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: _no_formula(v) for k, v in line.items()} for line in lines)
    return text.getvalue()


def _flat_head() -> tuple[str, ...]:
    return (
        *(
            "task",
            "protocol",
            "metric",
            "unit",
            "method",
            "variant",
            "backbone",
            "epochs",
            "weights",
            "state",
        ),
        *(
            "last",
            "best",
            "mean",
            "std",
            "published",
            "confidence",
            "source",
            "where",
            "delta",
            "limit",
            "flag",
        ),
        *("config", "commit", "backbone_sha256", "run", "note"),
    )


def _flat(row: Row, book: Book) -> list[dict[str, Any]]:
    """One dict for each run of a row; one for a row without runs."""
    number = row.published
    line: dict[str, Any] = dict.fromkeys(_flat_head(), "")
    line |= {
        "task": row.task,
        "protocol": row.protocol.key,
        "metric": row.metric.title,
        "unit": row.metric.unit,
    }
    line |= {"method": row.method, "variant": row.variant, "backbone": row.backbone, "state": row.state}
    line |= {"epochs": row.epochs, "mean": row.mean, "std": row.std, "delta": row.delta, "flag": row.flag}
    line |= {"limit": row.limit.value if row.limit else None}
    if number:
        line |= {"published": number.text, "confidence": number.confidence, "where": number.where}
        line |= {"source": book.sources[number.source].title, "note": number.note}
    runs = []
    for place, record in enumerate(row.records):
        run = {"seed": record.seed, "run": record.name}
        run |= {key: record.texts[key] for key in ("weights", "config", "commit", "backbone_sha256")}
        if row.state == "measured":
            run |= {"last": row.values[place], "best": row.best[place]}
        else:
            run |= {"note": record.texts["reason"]}
        runs.append(line | run)
    return runs or [line]


def _no_formula(value: Any) -> Any:
    if isinstance(value, str):
        text = clean(value)
        return "'" + text if text[:1] in tuple("=+-@") else text
    return value


def latex(rows: Sequence[Row]) -> str:
    r"""Rows as one ``table`` for each protocol; needs ``\usepackage{booktabs}`` and no other package.

    Args:
        rows: The rows.

    Returns:
        LaTeX; the caption tells the protocol in words.
    """
    parts = []
    for key in dict.fromkeys(row.protocol.key for row in rows):
        group = [row for row in rows if row.protocol.key == key]
        parts.append(_latex_table(group))
    return "\n".join(parts)


def _latex_table(rows: Sequence[Row]) -> str:
    protocol, lines = rows[0].protocol, cells(rows)
    keep = [i for i, title in enumerate(lines[0]) if title not in ("task", "protocol")]
    left = ("method", "backbone", "metric", "verdict")
    columns = "".join("l" if lines[0][i] in left else "r" for i in keep)
    text = [" & ".join(tex(line[i]) for i in keep) + r" \\" for line in lines]
    for place in range(len(rows) - 1, 0, -1):
        if rows[place].metric.key != rows[place - 1].metric.key:
            text.insert(place + 1, r"\midrule")
    caption = f"{rows[0].task}: {protocol.title} ({protocol.key}). {protocol.words}"
    return "\n".join(
        [
            r"\begin{table}[t]",
            r"\centering",
            rf"\caption{{{tex(clean(caption))}}}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            text[0],
            r"\midrule",
            *text[1:],
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def tex(text: str) -> str:
    """Returns: The text with every special character of LaTeX escaped."""
    return "".join(_LATEX.get(c, c) for c in text)


def json_text(rows: Sequence[Row], book: Book, problems: Sequence[str]) -> str:
    """Returns: Everything that tables show, at full precision, and what could not be read."""
    entries = [_entry(row, book) for row in rows]
    return json.dumps({"rows": entries, "problems": list(problems)}, indent=2, allow_nan=False) + "\n"


def _entry(row: Row, book: Book) -> dict[str, Any]:
    numbers = [row.published, *row.others] if row.published else []
    return {
        "task": row.task,
        "protocol": row.protocol.key,
        "metric": row.metric.key,
        "method": row.method,
        "variant": row.variant,
        "backbone": row.backbone,
        "epochs": row.epochs,
        "state": row.state,
        "runs": [record.name for record in row.records],
        "seeds": list(row.seeds),
        "last": list(row.values),
        "best": list(row.best),
        "mean": row.mean,
        "std": row.std,
        "over_random": row.over_random,
        "published": [
            {
                **{k: getattr(n, k) for k in ("value", "confidence", "kind", "where", "note")},
                "source": book.sources[n.source].title,
                "url": book.sources[n.source].url,
            }
            for n in numbers
            if n is not None
        ],
        "delta": row.delta,
        "limit": row.limit.value if row.limit else None,
        "flag": row.flag,
    }
