"""``tools/analyze_representation.py``: attention, CKA, ranks and pictures of encoders."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cmae_mm.engine.launch import prepare_run, run_parser
from cmae_mm.errors import UserError

RECORD_FILE = "representation.json"


def analysis_main(argv: Sequence[str] | None = None) -> int:
    """Analyse encoders and write ``representation.json`` and pictures.

    Args:
        argv: Words of the command line; those of the process if None.

    Returns:
        Exit code.

    Raises:
        UserError: For a user's mistake.
    """
    args = _parser().parse_args(argv)
    start = time.time()
    named = named_files(args.models)
    cfg = prepare_run(args)
    if not cfg.get("test_dataloader") or "backbone" not in cfg.model:
        raise UserError(
            f"{args.config}: trains no classifier of images; use a fine-tuning config of ImageNet"
        )

    from mmengine.registry import init_default_scope

    from cmae_mm.data.imagenet_layout import wnids
    from cmae_mm.engine.hooks import run_facts
    from cmae_mm.engine.preflight import check_datasets
    from cmae_mm.engine.run_metadata import write_json
    from cmae_mm.transfer.analysis.encoder import ObservedEncoder
    from cmae_mm.transfer.analysis.study import Study

    init_default_scope("mmpretrain")
    check_datasets(cfg, ("test",))
    _seed((cfg.get("randomness") or {}).get("seed", 0))
    study = Study([ObservedEncoder(name, cfg, file) for name, file in named.items()], args.tokens)
    dataset, classes = _images(cfg, args)
    loader = cfg.test_dataloader
    study.look(dataset, args.batch_size, loader.get("num_workers", 0))
    results = study.results()
    if args.lidar:
        _add_lidar(study, results, cfg, dataset, args)
    names = classes if classes != wnids() else [f"class {i}" for i in range(1000)]
    pictures = study.pictures(Path(cfg.work_dir), dataset, names)
    record = run_facts(cfg, args.seed or 0, 1) | {
        "protocol": "REPRESENTATION",
        "images": len(dataset),
        "batch_size": args.batch_size,
        "seconds": round(time.time() - start, 1),
        **results,
    }
    path = Path(cfg.work_dir) / RECORD_FILE
    write_json(path, record)
    for name, found in results["models"].items():
        distance = [sum(heads) / len(heads) for heads in found["attention_distance"]]
        print(
            f"{name}: attention distance {distance[0]:.1f} px in the first block, {distance[-1]:.1f} in the last; "
            f"RankMe of the mean token {found['rankme']['mean'][-1]:.1f}"
        )
    print(f"all digits: {path}")
    print("pictures: " + ", ".join(str(p) for p in pictures))
    return 0


def named_files(words: Sequence[str]) -> dict[str, str | None]:
    """Read ``NAME=FILE`` words; without any, random weights.

    Args:
        words: Of the command line; a file without a name is called by its stem.

    Returns:
        Name to file.

    Raises:
        UserError: A file is missing or a name is given twice.
    """
    named: dict[str, str | None] = {}
    for word in words:
        name, equals, file = word.partition("=")
        file = file if equals else name
        name = name if equals else Path(file).stem
        if not Path(file).is_file():
            raise UserError(f"--models {word}: there is no file {file}; check the path")
        if name in named or "|" in name:
            raise UserError(f"--models {word}: give each model a name of its own, without '|'")
        named[name] = file
    return named or {"random": None}


def _images(cfg: Any, args: argparse.Namespace) -> tuple[Any, Sequence[str]]:
    """A random part of the config's test images, in random order, so that batches mix classes."""
    from dataclasses import replace

    import numpy as np
    from mmpretrain.registry import DATASETS

    from cmae_mm.transfer.robustness.image_sets import classes_of, own_set
    from cmae_mm.transfer.robustness.images import TestImages, pixel_steps

    whole = DATASETS.build(cfg.test_dataloader.dataset)
    images = own_set(whole)
    order = np.random.default_rng(args.seed or 0).permutation(len(images.files))[: args.images]
    files, labels = tuple(images.files[i] for i in order), tuple(images.labels[i] for i in order)
    part = replace(images, files=files, labels=labels)
    return TestImages(part, pixel_steps(cfg.test_dataloader.dataset.pipeline)), classes_of(whole)


def _add_lidar(study: Any, results: dict[str, Any], cfg: Any, dataset: Any, args: argparse.Namespace) -> None:
    from mmengine.dataset import Compose

    from cmae_mm.transfer.analysis.study import lidar_of
    from cmae_mm.transfer.robustness.images import pixel_steps

    images, views = args.lidar
    transform = Compose(pixel_steps(cfg.train_dataloader.dataset.pipeline))
    for model in study.models:
        found = lidar_of(model, transform, dataset.images.files[:images], views, args.seed or 0)
        results["models"][model.name]["lidar"] = found | {"images": images, "views": views, "delta": 1e-4}


def _seed(seed: int) -> None:
    import torch

    torch.manual_seed(seed)  # of random weights, where there is no file


def _parser() -> argparse.ArgumentParser:
    parser = run_parser("Analyse what encoders have learnt, without labels.")
    parser.add_argument(
        "--models",
        nargs="+",
        default=[],
        metavar="[NAME=]FILE",
        help="backbone files, or checkpoints (.pth) of runs of this config; without any, random weights",
    )
    parser.add_argument(
        "--images", type=int, default=1000, metavar="N", help="test images, at random (%(default)s)"
    )
    parser.add_argument(
        "--batch-size", type=int, default=64, metavar="N", help="CKA is estimated in it (%(default)s)"
    )
    parser.add_argument(
        "--tokens",
        choices=["all", "mean", "cls"],
        default="all",
        help="CKA compares all tokens of an image, the mean patch token, or the class token (default: %(default)s)",
    )
    parser.add_argument(
        "--lidar",
        nargs=2,
        type=int,
        metavar=("N", "Q"),
        help="also LiDAR, on Q views of N images by the training transform; N should exceed the width",
    )
    return parser
