"""Result records: the numbers of one run with everything that a table needs to trust them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cmae_mm.benchmark.state import read_json, write_json

SCHEMA = 1


def record_path(out: Path, name: str) -> Path:
    """Returns: The record of a stage."""
    return out / "records" / f"{name}.json"


def write_record(job: Mapping[str, Any], state: Mapping[str, Any]) -> Path:
    """Write the record of a run that ended, well or not.

    Args:
        job: Fields of the job file: what was planned.
        state: How it ended: status, reason, parts of the fingerprint, attempts.

    Returns:
        The file, written whole or not at all.
    """
    out = Path(job["out"])
    run = read_json(Path(job["result"])) if job["result"] and state["status"] == "done" else {}
    planned = dict(job["record"])
    parts = state.get("parts", {})
    record = {
        "schema": SCHEMA,
        "name": job["name"],
        **planned,
        "status": state["status"],
        "reason": state.get("reason", ""),
        "metrics": _metrics(run),
        "config_sha256": parts.get("config", ""),
        "code_sha256": parts.get("code", ""),
        "data": {**planned["data"], "fingerprint": parts.get("data", "")},
        "backbone_file": _relative(run.get("backbone_file"), out),
        "backbone_sha256": run.get("backbone_sha256"),
        "commit": run.get("commit"),
        "packages": run.get("versions", {}),
        "hardware": {"device": run.get("device"), "processes": run.get("world_size")},
        "seconds": run.get("seconds", state.get("seconds")),
        "iterations": run.get("iterations"),
        "peak_memory_bytes": run.get("peak_memory_bytes"),
        "attempts": state.get("attempts", 1),
        "finished": state.get("finished"),
    }
    path = record_path(out, job["name"])
    write_json(path, record)
    return path


def _metrics(run: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Last and best value of each metric, as the run wrote them."""
    last, best = run.get("last", {}), run.get("best", {})
    return {
        key: {"last": value, "best": best.get(key, value)}
        for key, value in last.items()
        if isinstance(value, (int, float)) and key not in ("iter", "epoch")
    }


def _relative(file: str | None, out: Path) -> str | None:
    """A path below the outputs relative to them; of others the name alone, which says enough and moves with them."""
    if file is None:
        return None
    path = Path(file)
    return str(path.relative_to(out)) if path.is_relative_to(out) else path.name
