"""Records of runs, read as untrusted input: what is damaged is told, and the rest still makes a table."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cmae_mm.errors import UserError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

RANDOM = "random init"
"""Method name of the side that starts from random weights."""

_MAX_BYTES = 16 << 20
_TEXTS = (
    "reason",
    "weights",
    "config",
    "config_sha256",
    "backbone_file",
    "backbone_sha256",
    "commit",
)


@dataclass(frozen=True)
class Picture:
    """A picture of a run: path relative to the benchmark's folder, kind and caption."""

    path: str
    kind: str
    caption: str


@dataclass(frozen=True)
class Record:
    """One run.

    Attributes:
        name: Unique name.
        kind: pretrain, transfer or evaluate.
        status: done or failed.
        protocol: Protocol key.
        task: Title of the task; may be empty.
        method: Pretraining method, or :data:`RANDOM`.
        variant: Ablation; empty for the method's default.
        backbone: Architecture.
        epochs: Epochs of pretraining; None if unknown or none.
        seed: Random seed.
        data: Pretraining data.
        last: Raw metric key -> value of the last evaluation.
        best: Raw metric key -> best value.
        main: Raw keys that tables show.
        texts: Further fields as text: reason, weights (here, given, random), config, commit, hashes.
        details: Data set, packages, hardware, time and memory, as they were written.
        commands: Argument lists that run it again, in order.
        curves: Paths of scalar logs, relative to the benchmark's folder.
        pictures: Its pictures.
    """

    name: str
    kind: str
    status: str
    protocol: str
    task: str
    method: str
    variant: str
    backbone: str
    epochs: int | None
    seed: int
    data: str
    last: Mapping[str, float]
    best: Mapping[str, float]
    main: tuple[str, ...]
    texts: Mapping[str, str]
    details: Mapping[str, Any]
    commands: tuple[tuple[str, ...], ...]
    curves: tuple[str, ...]
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class Benchmark:
    """A benchmark's folder.

    Attributes:
        root: Paths of records are relative to it.
        title: For the head of tables and report.
        note: Sentences below the title.
        records: Runs, in the order of the recipe.
        planned: Rows that were planned, as plain fields.
        problems: Sentences on what could not be read.
    """

    root: Path
    title: str
    note: str
    records: tuple[Record, ...]
    planned: tuple[Mapping[str, Any], ...] = ()
    problems: tuple[str, ...] = field(default=())


def locate(target: Path, work_dir: Path | None = None) -> Path:
    """Find the folder of a benchmark.

    Args:
        target: Recipe file, the folder of a benchmark, or its ``records`` folder.
        work_dir: Folder that a recipe was run in; ``work_dirs/bench/<recipe>`` if None.

    Returns:
        Folder that has ``records/``, or that holds records itself.

    Raises:
        UserError: If there is nothing to read.
    """
    folder = work_dir or (target if target.is_dir() else Path("work_dirs", "bench", target.stem))
    if not target.exists():
        raise UserError(f"{target}: no such recipe or folder of records")
    if folder.name == "records" and not (folder / "records").is_dir():
        folder = folder.parent
    records = folder / "records"
    if not any((records if records.is_dir() else folder).glob("*.json")):
        hint = "name a folder that a benchmark wrote"
        if target.is_file():
            hint = "run `cmae-mm bench` first, or name its folder with --work-dir"
        raise UserError(f"{folder}: holds no records; {hint}")
    return folder


def read_benchmark(root: Path, recipe: Path | None = None) -> Benchmark:
    """Read all records of a benchmark.

    Args:
        root: See :func:`locate`.
        recipe: TOML recipe, for its title where ``benchmark.json`` has none.

    Returns:
        The benchmark; damaged files are among its problems.
    """
    folder = root / "records" if (root / "records").is_dir() else root
    about = _about(root, recipe)
    rows = {tuple(map(str, row)) for row in _list(about.get("rows")) if isinstance(row, list)}
    records, problems = {}, []
    for path in sorted(folder.glob("*.json")):
        if path.name == "benchmark.json":
            continue
        try:
            raw = _load(path)
            if rows and (raw.get("backbone_name"), raw.get("task_name")) not in rows:
                continue  # of another recipe that shares the folder
            record = parse(raw)
        except (OSError, ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
            problems.append(f"{path.name}: not a record ({error})")
            continue
        if record.name in records:
            problems.append(f"{path.name}: a second record is named {record.name}; it is left out")
            continue
        records[record.name] = record
    planned = [plan for plan in _list(about.get("planned")) if isinstance(plan, dict)]
    order = {name: place for place, name in enumerate(map(str, _list(about.get("records"))))}
    ordered = sorted(records.values(), key=lambda record: order.get(record.name, len(order)))
    title = _text(about.get("title")) or root.absolute().name
    return Benchmark(root, title, _text(about.get("note")), tuple(ordered), tuple(planned), tuple(problems))


def _about(root: Path, recipe: Path | None) -> dict[str, Any]:
    about: Any = {}
    own = root / "plans" / f"{recipe.stem}.json" if recipe is not None else root
    try:
        about = _load(own if own.is_file() else root / "benchmark.json")
    except (OSError, ValueError, RecursionError):
        if recipe is not None and recipe.suffix == ".toml":
            try:
                about = tomllib.loads(recipe.read_text())
            except (OSError, ValueError):
                about = {}
    return about if isinstance(about, dict) else {}


def _load(path: Path) -> Any:
    if path.stat().st_size > _MAX_BYTES:
        raise ValueError("larger than 16 MiB")
    return json.loads(path.read_bytes().decode())


def parse(value: dict[str, Any]) -> Record:
    """Check one record.

    Args:
        value: The JSON object.

    Returns:
        The record.

    Raises:
        KeyError: If a required field is missing.
        TypeError: If a field has the wrong type.
        ValueError: If a value is not possible.
    """
    status, metrics = _text(value.get("status")) or "done", value.get("metrics") or {}
    last = {key: _number(entry["last"], key) for key, entry in metrics.items()}
    best = {key: _number(entry.get("best", entry["last"]), key) for key, entry in metrics.items()}
    main = tuple(map(str, value.get("main_metrics") or last))
    seed, epochs = value.get("seed", 0), value.get("epochs")
    if not _whole(seed) or not (epochs is None or _whole(epochs)):
        raise TypeError("seed and epochs must be whole numbers")
    pictures = [p for p in _list(value.get("pictures")) if isinstance(p, dict) and _text(p.get("path"))]
    return Record(
        name=_required(value, "name"),
        kind=_text(value.get("kind")) or "transfer",
        status=status,
        protocol=_text(value["protocol"]),
        task=_text(value.get("task")),
        method=_required(value, "method"),
        variant=_text(value.get("variant")),
        backbone=_text(value.get("backbone")),
        epochs=epochs,
        seed=seed,
        data=_text(value.get("pretrain_data")) or "ImageNet-1K",
        last=last,
        best=best,
        main=tuple(key for key in main if key in last),
        texts={key: _text(value.get(key)) for key in _TEXTS},
        details={k: value[k] for k in _DETAILS if value.get(k) is not None},
        commands=_commands(value.get("command")),
        curves=tuple(filter(None, map(_text, _list(value.get("curves"))))),
        pictures=tuple(
            Picture(_text(p["path"]), _text(p.get("kind")) or "other", _text(p.get("caption")))
            for p in pictures
        ),
    )


_DETAILS = ("data", "packages", "hardware", "seconds", "iterations", "peak_memory_bytes", "finished")


def _required(value: Mapping[str, Any], key: str) -> str:
    if not (text := _text(value[key])):
        raise ValueError(f"{key} is empty")
    return text


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: Any) -> str:
    return value.strip() if isinstance(value, str) else ""


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: Any, key: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e300:
        raise ValueError(f"{key} is not a finite number")
    return float(value)


def _commands(value: Any) -> tuple[tuple[str, ...], ...]:
    if not isinstance(value, list) or not value:
        return ()
    lists: Sequence[Any] = value if isinstance(value[0], list) else [value]
    return tuple(tuple(map(str, words)) for words in lists if isinstance(words, list) and words)
