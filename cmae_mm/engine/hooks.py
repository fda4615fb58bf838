"""Hooks that every run gets: plain checkpoints, progress for a watcher, the result record."""

from __future__ import annotations

import json
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.dist import broadcast_object_list
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from cmae_mm.checkpoints import sha256_of
from cmae_mm.engine.environment import bare_model, device_name
from cmae_mm.engine.run_metadata import code_commit, versions, write_json
from cmae_mm.engine.throughput_hook import peak_memory

RECORD_FILE = "result.json"
TEST_RECORD_FILE = "test_result.json"
PROGRESS_FILE = "progress.json"
EVALUATIONS_FILE = "evaluations.json"
SUBSET_FILE = "subset.txt"
"""Names of the images whose labels count, where these are few."""


@HOOKS.register_module()
class PlainCheckpointHook(Hook):
    """Keeps checkpoints loadable with ``weights_only=True`` and says which encoder they hold.

    The smoothing history of the log is dropped (it needs a class to be unpickled); what a run
    needs to go on is kept.
    """

    priority = "VERY_LOW"

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Make the dictionary plain before it is written."""
        hub = checkpoint["message_hub"]
        hub["log_scalars"] = OrderedDict()
        hub["runtime_info"] = OrderedDict(
            (k, plain) for k, v in hub["runtime_info"].items() if (plain := _builtin(v)) is not None
        )
        # Without what was dropped; mmengine warns of each such key on resume.
        resumed = hub.get("resumed_keys") or {}
        hub["resumed_keys"] = OrderedDict((k, v) for k, v in resumed.items() if k in hub["runtime_info"])
        checkpoint["meta"]["dataset_meta"] = None  # rebuilt from the config on resume
        model = bare_model(runner)
        if hasattr(model, "backbone_header"):
            checkpoint["meta"]["backbone_header"] = model.backbone_header()


@HOOKS.register_module()
class ProgressFileHook(Hook):
    """Writes ``progress.json`` about once a second: what part of the run is done.

    Args:
        interval: Least seconds between two writes.
    """

    priority = "VERY_LOW"

    def __init__(self, interval: float = 1.0) -> None:
        self.interval = interval
        self._last = 0.0

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Note the iteration that was done."""
        now = time.monotonic()
        if runner.rank == 0 and (now - self._last >= self.interval or runner.iter + 1 == runner.max_iters):
            self._last = now
            write_json(
                Path(runner.work_dir) / PROGRESS_FILE, {"done": runner.iter + 1, "total": runner.max_iters}
            )


@HOOKS.register_module()
class ResultRecordHook(Hook):
    """Writes ``result.json``: every metric of the last and the best evaluation, and where it came from.

    Numbers are kept at full precision. A table of classes is kept for the last evaluation; those of all are
    in ``evaluations.json``.
    """

    priority = "LOWEST"

    def __init__(self) -> None:
        self.history: list[dict[str, Any]] = []
        self._start = time.time()

    def before_train(self, runner: Runner) -> None:
        """Start the clock; a resumed run keeps the evaluations of its earlier part."""
        self._start = time.time()
        self.history = _earlier_evaluations(Path(runner.work_dir), runner.iter)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Keep the metrics of one evaluation."""
        self.history.append({"iter": runner.iter, "epoch": runner.epoch, **_plain(metrics or {})})
        if runner.rank == 0:
            write_json(Path(runner.work_dir) / EVALUATIONS_FILE, self.history)

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Write the record of a test run."""
        if runner.rank == 0:
            write_json(
                Path(runner.work_dir) / TEST_RECORD_FILE,
                {**self._base(runner), "last": _plain(metrics or {})},
            )

    def after_train(self, runner: Runner) -> None:
        """Write the record of a training run.

        A run that was stopped during its last evaluation finds nothing to train when it goes on; it
        evaluates here.
        """
        if runner.val_loop is not None:
            open_ = [not self.history or self.history[-1]["iter"] != runner.iter]
            broadcast_object_list(open_)  # all processes evaluate, or none
            if open_[0]:
                runner.val_loop.run()
        if runner.rank != 0:
            return
        _link_last_checkpoint(Path(runner.work_dir))
        history = [{k: v for k, v in e.items() if not isinstance(v, dict)} for e in self.history]
        record = self._base(runner) | {
            "history": history,
            "last": self.history[-1] if self.history else {},
            "best": best_of(history),
            "accumulated_batches": getattr(runner.train_loop, "accumulate", 1),
        }
        if hasattr(
            dataset := runner.train_dataloader.dataset, "write_list"
        ):  # few labels: a protocol of its own
            record["subset"] = dataset.write_list(Path(runner.work_dir) / SUBSET_FILE)
            record["protocol"] = with_subset(record["protocol"], record["subset"])
        record["peak_memory_bytes"] = peak_memory()  # of process 0
        write_json(Path(runner.work_dir) / RECORD_FILE, record)

    def _base(self, runner: Runner) -> dict[str, Any]:
        return run_facts(runner.cfg, runner.seed, runner.world_size) | {
            "test_time_augmentation": "module" in runner.cfg.get("model", {}),
            "iterations": runner.iter,
            "seconds": round(time.time() - self._start, 1),
        }


def run_facts(cfg: Any, seed: int, world_size: int) -> dict[str, Any]:
    """Tell what a number came from, for a record.

    Args:
        cfg: The config of the run.
        seed: Its random seed.
        world_size: Its processes.

    Returns:
        Config, protocol, backbone, seed, device, commit, versions.
    """
    model = cfg.get("model", {})
    backbone = model.get("module", model).get("backbone", {})
    return {
        "config": Path(cfg.filename or "").name,
        "protocol": cfg.get("protocol"),
        "trainable_blocks": backbone.get("trainable_blocks"),
        "backbone_file": (file := backbone.get("backbone_file")),
        "backbone_sha256": sha256_of(file) if file else None,
        "seed": seed,
        "device": device_name(),
        "world_size": world_size,
        "commit": code_commit(),
        "versions": versions(),
    }


def with_subset(protocol: str | None, subset: dict[str, Any] | None) -> str | None:
    """Returns: The protocol key with which labels were used behind it, so that no table mixes the two."""
    return f"{protocol}@{Path(subset['take']).name}" if subset else protocol


def best_of(history: list[dict[str, Any]]) -> dict[str, float]:
    """Returns: The largest value of each number that the last evaluation has, over all evaluations."""
    last = history[-1] if history else {}
    keys = [k for k, v in last.items() if k not in ("iter", "epoch") and isinstance(v, (int, float))]
    return {k: max(h[k] for h in history if k in h) for k in keys}


def _earlier_evaluations(folder: Path, iteration: int) -> list[dict[str, Any]]:
    """Evaluations of an earlier part of this run, up to the iteration where it goes on."""
    if iteration == 0:
        return []
    try:
        return [e for e in json.loads((folder / EVALUATIONS_FILE).read_text()) if e["iter"] <= iteration]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return []


def _link_last_checkpoint(folder: Path) -> None:
    """Let ``last.pth`` point to the newest checkpoint, whose name depends on the schedule."""
    note = folder / "last_checkpoint"
    if note.is_file():
        link = folder / "last.pth"
        link.unlink(missing_ok=True)
        link.symlink_to(Path(note.read_text().strip()).name)


def _builtin(value: Any) -> Any:
    """The value without NumPy (its scalars are floats too, but need a class to be unpickled), or None."""
    if isinstance(value, (bool, str)):
        return value
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating)):
        return float(value)
    if isinstance(value, list) and all(isinstance(v, int) for v in value):  # the kept checkpoints
        return [int(v) for v in value]
    return None


def _plain(metrics: dict[str, Any]) -> dict[str, Any]:
    """Numbers as floats, tables as they are; anything else is left out."""
    numbers = {k: float(v) for k, v in metrics.items() if isinstance(v, (int, float)) or hasattr(v, "item")}
    return numbers | {k: {**v} for k, v in metrics.items() if isinstance(v, dict)}
