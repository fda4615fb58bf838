"""``cmae-mm table`` and ``cmae-mm report``: tables and the report from records alone."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from cmae_mm.errors import UserError
from cmae_mm.report.formats import csv_text, escape_markdown, json_text, latex, markdown
from cmae_mm.report.page import render
from cmae_mm.report.published import Book, load_published
from cmae_mm.report.records import Benchmark, locate, read_benchmark
from cmae_mm.report.rows import Row, make_rows

FORMATS = {"md": "table.md", "csv": "table.csv", "latex": "table.tex", "json": "table.json"}


def table_command(args: argparse.Namespace) -> int:
    """Print the table of a benchmark.

    Args:
        args: ``target``, ``work_dir``, ``format``, ``measured_only``.

    Returns:
        Exit code.
    """
    benchmark, rows, book = _load(args.target, args.work_dir, not args.measured_only)
    sys.stdout.write(_format(args.format, benchmark, rows, book))
    if args.format != "md":
        for problem in benchmark.problems:
            print(f"left out: {problem}", file=sys.stderr)
    return 0


def report_command(args: argparse.Namespace) -> int:
    """Write the report of a benchmark.

    Args:
        args: ``target``, ``work_dir``, ``out``.

    Returns:
        Exit code.
    """
    print(f"report: {_write(*_load(args.target, args.work_dir, True), args.out)}")
    return 0


def table_text(out: Path, format: str = "md", references: bool = False) -> str:
    """The table of a benchmark's folder.

    Args:
        out: Folder with ``records/``.
        format: Key of :data:`FORMATS`.
        references: Whether published rows of the same protocol and backbone are added.

    Returns:
        The table.
    """
    return _format(format, *_load(out, None, references))


def write_report(out: Path, to: Path | None = None) -> Path:
    """Write ``report.html`` and the table in every format.

    Args:
        out: Folder with ``records/``.
        to: Folder to write; ``out/report`` if None.

    Returns:
        Path of the page.
    """
    return _write(*_load(out, None, True), to)


def _load(target: Path, work_dir: Path | None, references: bool) -> tuple[Benchmark, list[Row], Book]:
    root, book = locate(target, work_dir), load_published()
    benchmark = read_benchmark(root, target if target.is_file() else None)
    return benchmark, make_rows(benchmark, book, references), book


def _format(format: str, benchmark: Benchmark, rows: list[Row], book: Book) -> str:
    if format == "csv":
        return csv_text(rows, book)
    if format == "latex":
        return latex(rows)
    if format == "json":
        return json_text(rows, book, benchmark.problems)
    return "\n".join([markdown(rows), "", *_legend(benchmark, rows)]).rstrip() + "\n"


def _legend(benchmark: Benchmark, rows: list[Row]) -> list[str]:
    """Sentences below a Markdown table: only those that it needs."""
    notes = []
    if any(row.values for row in rows):
        notes.append("Measured: last evaluation; mean and sample standard deviation over seeds.")
    if any(row.published and row.published.confidence == "inferred" for row in rows):
        notes.append("†: protocol, backbone or epochs of the published value are inferred.")
    if any(row.delta is not None for row in rows):
        notes.append("A difference is judged with 95 % certainty against the spread over seeds.")
    failed = [row for row in rows if row.state == "failed"]
    told = [
        f"Failed: {row.records[0].name}: {row.records[0].texts['reason'] or 'no reason'}" for row in failed
    ]
    told += [f"Left out: {problem}" for problem in benchmark.problems]
    return notes + [escape_markdown(text) for text in told]


def _write(benchmark: Benchmark, rows: list[Row], book: Book, to: Path | None) -> Path:
    folder = to or benchmark.root / "report"
    texts = {name: _format(key, benchmark, rows, book) for key, name in FORMATS.items()}
    texts["table.md"] = f"# {escape_markdown(benchmark.title)}\n\n{texts['table.md']}"
    texts["report.html"] = render(benchmark, rows, book)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            part = folder / f"{name}.part"
            part.write_text(text, encoding="utf-8")
            os.replace(part, folder / name)
    except OSError as error:
        raise UserError(
            f"{folder}: the report cannot be written there ({error.strerror}); choose another --out"
        ) from None
    return folder / "report.html"
