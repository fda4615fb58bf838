"""The record of a probe: the same shape as that of a training run."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from mmengine.dist import get_world_size

from cmae_mm.engine.hooks import EVALUATIONS_FILE, RECORD_FILE, best_of, run_facts, with_subset
from cmae_mm.engine.run_metadata import write_json
from cmae_mm.transfer.probe_task import Outcome


def write_record(cfg: Any, outcome: Outcome, notes: dict[str, Any], start: float) -> dict[str, Any]:
    """Write ``result.json``, and the evaluations of all epochs.

    With few labels the protocol key ends with which, so that a table mixes neither.

    Args:
        cfg: The config of the run.
        outcome: What the probe found.
        notes: What else belongs into the record.
        start: When the run began, seconds since 1970.

    Returns:
        The record.
    """
    folder, last = Path(cfg.work_dir), outcome.history[-1]
    record = run_facts(cfg, cfg.seed, get_world_size()) | notes | outcome.notes
    record |= {
        "history": outcome.history,
        "last": last,
        "best": best_of(outcome.history),
        "iterations": int(last.get("iter", 0)),
        "seconds": round(time.time() - start, 1),
    }
    protocol, subset = cfg.get("protocol"), notes.get("subset")
    record["protocol"] = with_subset(protocol, subset)
    if "accuracy/top1_best_on_val" in last:
        record["protocol_best_on_val"] = with_subset(f"{protocol}-best-on-val", subset)
    write_json(folder / EVALUATIONS_FILE, outcome.history)
    write_json(folder / RECORD_FILE, record)
    return record
