"""Evaluate a frozen encoder on labelled images: ``tools/probe.py``."""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cmae_mm.compat  # noqa: F401  (before torchvision)
from cmae_mm.errors import UserError

NOTE = "probe.json"
"""Tells which run a work dir belongs to."""
_FIELDS = ("model", "data_preprocessor", "features", "probe", "subset", "protocol")


def probe_main(argv: Sequence[str] | None = None) -> int:
    """Extract features, or find them in the cache, run the probe that the config names, write the record.

    A finished run is not run again; a stopped one goes on.

    Args:
        argv: Words of the command line; those of the process if None.

    Returns:
        Exit code.

    Raises:
        UserError: For a user's mistake.
    """
    from cmae_mm.engine.launch import prepare_run, run_parser

    parser = run_parser("Evaluate a frozen encoder: linear layers, nearest neighbours, logistic regression.")
    parser.add_argument(
        "--backbone", help="backbone file or what `cmae-mm import` takes; without it the weights are random"
    )
    parser.add_argument(
        "--cache",
        help="folder of extracted features, shared by all probes (default: features/ beside the work dir)",
    )
    args = parser.parse_args(argv)
    start = time.time()
    cfg = prepare_run(args)
    if not (cfg.get("probe") and cfg.get("features")):
        raise UserError(
            f"{args.config}: describes no probe of frozen features; use a config such as configs/imagenet/knn_*.py"
        )
    if args.backbone:
        from cmae_mm.engine.config import set_backbone

        set_backbone(cfg, args.backbone)
    _set_precision(cfg, args)
    cfg.seed = (cfg.get("randomness") or {}).get("seed") or 0
    if _is_finished(cfg):
        return 0
    _start_processes(cfg, args)
    _run(cfg, Path(args.cache) if args.cache else Path(cfg.work_dir).absolute().parent / "features", start)
    return 0


def _set_precision(cfg: Any, args: argparse.Namespace) -> None:
    """What --amp means to an encoder that does not learn."""
    from torch.cuda import is_available

    if args.amp and is_available():
        cfg.features.precision = "bfloat16"
        args.amp = False  # there is no optimizer to adapt


def _fingerprint(cfg: Any) -> str:
    """Digest of all that decides the result."""
    from cmae_mm.checkpoints import sha256_of

    file = cfg.model.backbone.get("backbone_file")
    facts = {key: cfg._cfg_dict.get(key) for key in _FIELDS}
    facts |= {phase: cfg._cfg_dict[f"{phase}_dataloader"]["dataset"] for phase in ("train", "val")}
    facts |= {"seed": cfg.seed, "weights": sha256_of(file) if file else None}
    text = json.dumps(facts, sort_keys=True, default=lambda o: getattr(o, "__qualname__", str(o)))
    return hashlib.sha256(text.replace(json.dumps(file), "null").encode()).hexdigest()


def _is_finished(cfg: Any) -> bool:
    """Whether the work dir has the result of this run; says so.

    Raises:
        UserError: It belongs to another run.
    """
    from cmae_mm.engine.hooks import RECORD_FILE

    folder, own = Path(cfg.work_dir), _fingerprint(cfg)
    record, note = _read(folder / RECORD_FILE), _read(folder / NOTE)
    known = note.get("fingerprint") or record.get("fingerprint")
    if (record or note) and known != own:
        raise UserError(
            f"{folder}: holds another run (its config, encoder, data or seed differ); choose another --work-dir"
        )
    if record:
        print(f"already finished: {_line(record.get('last', {}))}; {folder / RECORD_FILE}")
        return True
    return False


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _line(metrics: dict[str, Any]) -> str:
    return ", ".join(
        f"{k.removeprefix('accuracy/')} {v:.2f} %" for k, v in metrics.items() if k.startswith("accuracy/")
    )


def _start_processes(cfg: Any, args: argparse.Namespace) -> None:
    """Check the data, meet the other processes, start the log."""
    from mmengine.dist import init_dist, is_distributed
    from mmengine.logging import MMLogger, print_log
    from mmengine.registry import init_default_scope
    from mmengine.runner import set_random_seed

    from cmae_mm.engine.environment import adapt
    from cmae_mm.engine.preflight import check_datasets

    notes = check_datasets(cfg, ("train", "val"))
    notes += adapt(cfg, args.launcher, args.amp)
    if args.launcher != "none" and not is_distributed():
        init_dist(args.launcher, **(cfg.get("env_cfg") or {}).get("dist_cfg", {}))
    init_default_scope("mmpretrain")
    log = Path(cfg.work_dir) / "probe.log"
    MMLogger.get_instance("probe", logger_name="mmengine", log_file=str(log), file_mode="a")
    set_random_seed(cfg.seed)  # of an encoder without a file
    for note in notes:
        print_log(note, logger="current")


def _run(cfg: Any, cache_root: Path, start: float) -> None:
    import torch
    from mmengine.device import get_device
    from mmengine.dist import get_dist_info
    from mmengine.logging import print_log
    from mmpretrain.registry import TASK_UTILS

    from cmae_mm.engine.run_metadata import write_json
    from cmae_mm.transfer.probe_features import FeatureSource
    from cmae_mm.transfer.probe_record import write_record
    from cmae_mm.transfer.probe_task import Task

    rank = get_dist_info()[0]
    probe = TASK_UTILS.build(cfg.probe)
    source = FeatureSource(cfg, cache_root, probe.parts)
    train = source.table("train", cfg.get("subset"))
    val = source.table("val")
    if rank and not probe.shared:
        return
    if rank == 0:  # from here on there is something of this run that another must not go on from
        write_json(Path(cfg.work_dir) / NOTE, {"fingerprint": _fingerprint(cfg)})
    device = torch.device(get_device())
    log = lambda text: print_log(text, logger="current")  # noqa: E731
    outcome = probe.run(Task(train, val, device, cfg.seed, Path(cfg.work_dir), log))
    if rank or outcome is None:
        return
    notes = {"fingerprint": _fingerprint(cfg), "features": source.about, "subset": source.subset}
    record = write_record(cfg, outcome, notes, start)
    print(f"done: {_line(record['last'])}; {Path(cfg.work_dir)}")
