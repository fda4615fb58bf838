"""Train or test any config of any of the three libraries."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cmae_mm.compat
from cmae_mm.errors import UserError


def run_parser(purpose: str) -> argparse.ArgumentParser:
    """Words of every program that runs a config.

    Args:
        purpose: First line of the help.

    Returns:
        A parser of config, work_dir, data_root, amp, seed, cfg_options, launcher.
    """
    parser = argparse.ArgumentParser(description=purpose)
    parser.add_argument("config", help="config file, for example configs/mini/cmae_vit-mini-p8_pretrain.py")
    parser.add_argument(
        "--work-dir", help="where logs, checkpoints and records go (default: work_dirs/<config name>)"
    )
    parser.add_argument("--data-root", help="use this folder in place of the config's data_root")
    parser.add_argument("--amp", action="store_true", help="train in mixed precision (on a GPU)")
    parser.add_argument("--seed", type=int, help="random seed (default: the config's)")
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="set fields of the config, e.g. optim_wrapper.lr=1e-4",
    )
    parser.add_argument("--launcher", choices=["none", "pytorch", "slurm", "mpi"], default="none")
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0, help=argparse.SUPPRESS)
    return parser


def _train_parser() -> argparse.ArgumentParser:
    parser = run_parser("Train a config of this suite, of mmpretrain, mmdet or mmsegmentation.")
    parser.add_argument(
        "--backbone",
        help="backbone file to start from; also an address, hf://org/name/file, or a checkpoint `cmae-mm import` takes",
    )
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        help="go on from the newest checkpoint of the work dir, or from the given one",
    )
    parser.add_argument(
        "--accumulate",
        nargs="?",
        const="auto",
        type=_count,
        metavar="N",
        help="add up the gradients of N batches for each step; without N as many as the recipe's batch needs here, "
        "which pretraining does by itself; 1 takes each batch as it is",
    )
    parser.add_argument(
        "--shard",
        nargs="?",
        const="split",
        choices=("split", "recompute"),
        help="split weights, gradients and optimizer over the processes (FSDP2); recompute: and compute blocks again "
        "in the backward pass instead of keeping them",
    )
    parser.add_argument(
        "--labels",
        metavar="PART",
        help="classification: train on 1%% or 10%% of each class, 5-per-class, or a file with one image name a line; "
        "drawn with the run's seed",
    )
    return parser


def train_main(argv: Sequence[str] | None = None) -> int:
    """Train a config: ``tools/train.py``.

    Args:
        argv: Words of the command line; those of the process if None.

    Returns:
        Exit code.

    Raises:
        UserError: For a user's mistake.
    """
    args = _train_parser().parse_args(argv)
    cfg = prepare_run(args)
    if args.shard:
        cfg.sharding = dict(recompute=args.shard == "recompute")
    if args.labels:
        from cmae_mm.engine.config import use_few_labels

        use_few_labels(cfg, args.labels)
    if args.backbone:
        from cmae_mm.engine.config import set_backbone

        set_backbone(cfg, args.backbone)
    cfg.resume = args.resume is not None
    cfg.load_from = args.resume if args.resume not in (None, "auto") else cfg.get("load_from")
    if cfg.load_from and not Path(cfg.load_from).is_file():
        raise UserError(f"{cfg.load_from}: no such checkpoint to start from; check the path")
    from cmae_mm.engine.environment import leave_processes

    runner = build_runner(cfg, args, ("train", "val"))
    runner.train()
    leave_processes()
    print(f"done: results, logs and checkpoints are in {cfg.work_dir}")
    return 0


def evaluate_main(argv: Sequence[str] | None = None) -> int:
    """Evaluate a checkpoint: ``tools/test.py``.

    Args:
        argv: Words of the command line; those of the process if None.

    Returns:
        Exit code.

    Raises:
        UserError: For a user's mistake.
    """
    parser = run_parser("Evaluate a checkpoint with its config.")
    parser.add_argument("checkpoint", help="checkpoint (.pth) of a training run of this config")
    parser.add_argument(
        "--predictions",
        metavar="PREFIX",
        help="detection: write PREFIX.bbox.json and PREFIX.segm.json in COCO's format (default: WORK_DIR/predictions)",
    )
    parser.add_argument(
        "--tta", action="store_true", help="test-time augmentation, as the config describes it"
    )
    args = parser.parse_args(argv)
    if not Path(args.checkpoint).is_file():
        raise UserError(f"{args.checkpoint}: no such checkpoint file; check the path")
    cfg = prepare_run(args)
    if not cfg.get("test_dataloader"):
        raise UserError(
            f"{args.config}: has no test_dataloader, so there is nothing to test; use a transfer config"
        )
    predictions = _keep_predictions(cfg, args.predictions)
    cfg.load_from = args.checkpoint
    for model_part in (cfg.model, cfg.model.get("backbone", {})):
        model_part.pop("init_cfg", None)
    from cmae_mm.engine.environment import leave_processes
    from cmae_mm.engine.hooks import TEST_RECORD_FILE

    if args.tta:
        from cmae_mm.engine.config import use_tta

        use_tta(cfg)
    runner = build_runner(cfg, args, ("test",))
    metrics = runner.test()
    leave_processes()
    print(_line(metrics))
    print(f"all digits: {Path(cfg.work_dir) / TEST_RECORD_FILE}")
    for file in predictions:
        print(f"predictions: {file}")
    return 0


def _keep_predictions(cfg: Any, prefix: str | None) -> list[str]:
    """Let COCO's metrics write what the model found; returns the files."""
    from mmengine.registry import METRICS

    found = cfg.test_evaluator if isinstance(cfg.test_evaluator, (list, tuple)) else [cfg.test_evaluator]
    files = []
    for evaluator in found:
        kind = evaluator["type"]
        kind = METRICS.get(kind) if isinstance(kind, str) else kind
        if "CocoMetric" in {base.__name__ for base in getattr(kind, "__mro__", ())}:
            place = prefix or evaluator.get("outfile_prefix") or str(Path(cfg.work_dir) / "predictions")
            Path(place).parent.mkdir(parents=True, exist_ok=True)
            evaluator["outfile_prefix"] = place
            metrics = evaluator.get("metric", "bbox")
            files += [f"{place}.{m}.json" for m in ([metrics] if isinstance(metrics, str) else metrics)]
    if prefix and not files:
        raise UserError(
            f"--predictions {prefix}: {cfg.filename} is no detection config with COCO's metric; leave it out"
        )
    return files


def _line(metrics: dict[str, Any]) -> str:
    """Numbers for people; the record has all digits."""
    numbers = {name: value for name, value in sorted(metrics.items()) if isinstance(value, (int, float))}
    return "; ".join(f"{name} {value:.4g}" for name, value in numbers.items())


def probe_main(argv: Sequence[str] | None = None) -> int:
    """Evaluate a frozen encoder without training: ``tools/dense_knn.py``.

    Args:
        argv: Words of the command line; those of the process if None.

    Returns:
        Exit code.

    Raises:
        UserError: For a user's mistake.
    """
    from cmae_mm.engine.environment import bare_model, leave_processes
    from cmae_mm.engine.hooks import TEST_RECORD_FILE

    parser = run_parser("Label patches by their nearest neighbours in frozen features; nothing is trained.")
    parser.add_argument("--backbone", help="backbone file (.safetensors); without it the weights are random")
    args = parser.parse_args(argv)
    cfg = prepare_run(args)
    if not any("FillMemoryHook" in str(hook.get("type")) for hook in cfg.get("custom_hooks") or []):
        raise UserError(
            f"{args.config}: fills no memory of patches; use a config such as configs/ade20k/knn_*.py"
        )
    if args.backbone:
        from cmae_mm.engine.config import set_backbone

        set_backbone(cfg, args.backbone)
    runner = build_runner(cfg, args, ("train", "test"))
    bare_model(runner).init_weights()
    metrics = runner.test()
    leave_processes()
    print(_line(metrics))
    print(f"all digits: {Path(cfg.work_dir) / TEST_RECORD_FILE}")
    return 0


def _count(word: str) -> int | str:
    """A number of batches, or ``auto``."""
    if word != "auto" and not (word.isdecimal() and int(word) > 0):
        raise argparse.ArgumentTypeError(f"'{word}' is no whole number above 0")
    return word if word == "auto" else int(word)


def prepare_run(args: argparse.Namespace) -> Any:
    """Load the config of a run and make its work dir.

    Args:
        args: See :func:`run_parser`.

    Returns:
        The config, with data root, seed and work dir set.

    Raises:
        UserError: For a wrong path or field.
    """
    from cmae_mm.engine.config import load_config, prepare_work_dir, set_data_root
    from cmae_mm.engine.options import parse_options

    os.environ.setdefault("LOCAL_RANK", str(args.local_rank))
    cmae_mm.compat.import_quietly()
    cfg = load_config(args.config, parse_options(args.cfg_options))
    if not cfg.get("model"):
        raise UserError(
            f"{args.config}: has no model, it is only a part of recipes; use a recipe of configs/"
        )
    if args.data_root:
        set_data_root(cfg, args.data_root)
    if args.seed is not None:
        cfg.randomness = {**(cfg.get("randomness") or {}), "seed": args.seed}
    cfg.work_dir = args.work_dir or cfg.get("work_dir") or str(Path("work_dirs") / Path(args.config).stem)
    prepare_work_dir(cfg.work_dir)
    return cfg


def build_runner(cfg: Any, args: argparse.Namespace, phases: tuple[str, ...]) -> Any:
    """Check the data of a config, fit it to this machine and build its runner.

    Args:
        cfg: Of :func:`prepare_run`; changed in place.
        args: Of :func:`run_parser`.
        phases: Whose data is read: of ``train``, ``val``, ``test``.

    Returns:
        A `SuiteRunner` with the hooks of every run.

    Raises:
        UserError: For a user's mistake.
    """
    from mmengine.logging import print_log

    from cmae_mm.engine.config import name_classes
    from cmae_mm.engine.environment import adapt
    from cmae_mm.engine.hooks import PlainCheckpointHook, ProgressFileHook, ResultRecordHook
    from cmae_mm.engine.preflight import check_datasets
    from cmae_mm.engine.random_states import RandomStateHook
    from cmae_mm.engine.runner import SuiteRunner

    notes = check_datasets(cfg, phases)
    if "train" in phases and hasattr(args, "accumulate"):
        from cmae_mm.engine.accumulation import accumulate, keeps_its_batch, planned_processes

        wanted: Any = args.accumulate or ("auto" if keeps_its_batch(cfg) else None)
        if wanted:
            notes.append(accumulate(cfg, wanted, planned_processes(args.launcher)))
    notes += adapt(cfg, args.launcher, args.amp)
    own = (RandomStateHook, PlainCheckpointHook, ProgressFileHook, ResultRecordHook)
    # The config of an earlier run, from its work dir, has them already.
    others = [hook for hook in cfg.get("custom_hooks") or [] if hook["type"] not in own]
    cfg.custom_hooks = [*others, *(dict(type=kind) for kind in own)]
    name_classes(cfg)
    runner = SuiteRunner.from_cfg(cfg)
    for note in notes:
        print_log(note, logger="current")
    return runner
