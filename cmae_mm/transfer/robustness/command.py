"""``tools/test_robustness.py``: a classifier on ImageNet-V2, ReaL, A, R, Sketch, C and generated corruptions."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from cmae_mm.engine.launch import build_runner, prepare_run, run_parser
from cmae_mm.errors import UserError

RECORD_FILE = "robustness_result.json"
SETS = {
    "clean": "the config's own test images",
    "real": "ImageNet-ReaL: real.json, over the same images",
    "v2": "ImageNet-V2, matched frequency",
    "v2-threshold": "ImageNet-V2, threshold 0.7",
    "v2-top": "ImageNet-V2, top images",
    "a": "ImageNet-A, 200 classes",
    "r": "ImageNet-R, 200 classes",
    "sketch": "ImageNet-Sketch",
    "c": "ImageNet-C, the published files",
    "generated": "the corruptions of ImageNet-C made on the config's test images",
}
_USUAL_PLACES = {
    "real": "real.json",
    "v2": "imagenetv2-matched-frequency-format-val",
    "v2-threshold": "imagenetv2-threshold0.7-format-val",
    "v2-top": "imagenetv2-top-images-format-val",
    "a": "imagenet-a",
    "r": "imagenet-r",
    "sketch": "imagenet-sketch",
    "c": "imagenet-c",
}


def robustness_main(argv: Sequence[str] | None = None) -> int:
    """Test a checkpoint and write ``robustness_result.json``.

    Args:
        argv: Words of the command line; those of the process if None.

    Returns:
        Exit code.

    Raises:
        UserError: For a user's mistake.
    """
    args = _parser().parse_args(argv)
    if args.launcher != "none":
        raise UserError("tools/test_robustness.py runs in one process; leave out --launcher")
    if not Path(args.checkpoint).is_file():
        raise UserError(f"{args.checkpoint}: no such checkpoint file; check the path")
    start = time.time()
    cfg = prepare_run(args)
    if "ImageClassifier" not in str(cfg.model.get("type")) or not cfg.get("test_dataloader"):
        raise UserError(
            f"{args.config}: trains no classifier of images; use a fine-tuning config of ImageNet"
        )
    places = set_places(args.sets, cfg.test_dataloader.dataset.get("data_root") or ".")
    cfg.load_from = args.checkpoint
    cfg.model.get("backbone", {}).pop("init_cfg", None)
    runner = build_runner(cfg, args, ("test",))
    runner.load_or_resume()

    from cmae_mm.engine.environment import bare_model
    from cmae_mm.engine.hooks import run_facts
    from cmae_mm.engine.run_metadata import write_json
    from cmae_mm.transfer.robustness.suite import RobustnessTest

    test = RobustnessTest(bare_model(runner).eval(), cfg, args)
    scores = test.run(places)
    record = run_facts(cfg, runner.seed, 1) | {
        "protocol": "ROBUSTNESS",
        "trained_as": cfg.get("protocol"),
        "checkpoint": str(args.checkpoint),
        "seconds": round(time.time() - start, 1),
        "sets": test.notes,
        "last": scores,
    }
    path = Path(cfg.work_dir) / RECORD_FILE
    write_json(path, record)
    for name, value in scores.items():
        if isinstance(value, float) and name.count("/") == 1:
            print(f"{name} {value:.6g}")
    print(f"all digits: {path}")
    return 0


def set_places(words: Sequence[str], data_root: str | Path) -> dict[str, Path]:
    """Where the sets are.

    Args:
        words: ``name`` or ``name=path``.
        data_root: Of the config; sets without a path are looked for in it and beside it.

    Returns:
        Name to path, in the order of `SETS`.

    Raises:
        UserError: A name is unknown, or a set is at none of its usual places.
    """
    given = dict(word.partition("=")[::2] for word in words)
    unknown = sorted(set(given) - set(SETS))
    if unknown:
        raise UserError(f"--sets {unknown[0]}: no such set; choose from {', '.join(SETS)}")
    root, places = Path(data_root), {}
    for name in (n for n in SETS if n in given):
        usual = _USUAL_PLACES.get(name)
        candidates = [root, *([root / usual, root.parent / usual] if usual else [])]
        path = Path(given[name]) if given[name] else next((p for p in candidates[1:] if p.exists()), root)
        if usual and not (given[name] or path != root):
            raise UserError(
                f"--sets {name}: is neither {candidates[1]} nor {candidates[2]}; give --sets {name}=PATH"
            )
        if not path.exists():
            raise UserError(f"--sets {name}: there is no {path}; check the path")
        places[name] = path
    return places


def _parser() -> argparse.ArgumentParser:
    parser = run_parser("Test a fine-tuned classifier on images unlike those it was trained on.")
    parser.add_argument("checkpoint", help="checkpoint (.pth) of a training run of this config")
    parser.add_argument(
        "--sets",
        nargs="+",
        default=["clean", "generated"],
        metavar="NAME[=PATH]",
        help="; ".join(f"{name}: {what}" for name, what in SETS.items()) + " (default: clean generated)",
    )
    parser.add_argument(
        "--corruptions", nargs="+", metavar="NAME", help="for generated and c (default: the 15)"
    )
    parser.add_argument("--severities", nargs="+", type=int, metavar="N", help="of 1 to 5 (default: all)")
    parser.add_argument("--limit", type=int, metavar="N", help="a random part of N images of each set")
    parser.add_argument("--limit-seed", type=int, default=0, help="of that draw and of the corruptions")
    parser.add_argument(
        "--no-jpeg", action="store_true", help="generated: leave out the round trip through JPEG"
    )
    parser.add_argument(
        "--c-transform",
        choices=["crop", "test"],
        default="crop",
        help="c: crop only, as its authors did, or the config's whole test transform",
    )
    return parser
