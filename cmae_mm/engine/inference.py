"""A config, a trained model and a few samples, for pictures: no runner, no log, no work dir."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, MODELS, init_default_scope
from mmengine.runner import set_random_seed

import cmae_mm.compat
from cmae_mm.checkpoints.safe_load import load_checkpoint
from cmae_mm.engine.checkpoint_checks import check_same_model
from cmae_mm.engine.config import load_config, set_data_root
from cmae_mm.engine.cpu import fit_to_cpu
from cmae_mm.engine.options import parse_options
from cmae_mm.engine.preflight import check_datasets
from cmae_mm.errors import UserError


def picture_arguments(
    purpose: str, argv: Sequence[str] | None, checkpoint: bool = True
) -> argparse.Namespace:
    """Parse the words that every picture tool takes.

    Args:
        purpose: First line of the help.
        argv: Words of the command line; those of the process if None.
        checkpoint: Whether the tool takes a checkpoint.

    Returns:
        config, checkpoint, out, data_root, images (indices), count, seed, cfg_options.
    """
    parser = picture_parser(purpose)
    if checkpoint:
        parser.add_argument("checkpoint", help="checkpoint (.pth) that was trained with the config")
    parser.add_argument("--images", type=int, nargs="+", help="indices of the images to show")
    parser.add_argument("--count", type=int, default=8, help="how many, evenly spread, without --images")
    return parser.parse_args(argv)


def picture_parser(purpose: str) -> argparse.ArgumentParser:
    """Words of all picture tools, for one that chooses its images in its own way.

    Args:
        purpose: First line of the help.

    Returns:
        A parser of config, out, data_root, seed, cfg_options.
    """
    parser = argparse.ArgumentParser(description=purpose)
    parser.add_argument("config", help="config of the data, and of the model if there is a checkpoint")
    parser.add_argument("--out", required=True, help="picture to write (.png)")
    parser.add_argument("--data-root", help="use this folder in place of the config's data_root")
    parser.add_argument("--seed", type=int, default=0, help="random seed of views, masks and crops")
    parser.add_argument("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE")
    return parser


def prepare(args: argparse.Namespace, phase: str) -> tuple[tuple[str, ...], Any, list[dict[str, Any]]]:
    """Load config, model and samples.

    Args:
        args: See :func:`picture_arguments`.
        phase: ``train`` or ``val``: which dataset the samples come from.

    Returns:
        Names of the classes, the model in evaluation mode, and the chosen samples after their pipeline.

    Raises:
        UserError: For a wrong path, architecture or index.
    """
    cfg = picture_config(args, phase)
    model = load_model(cfg, args.checkpoint)
    classes, samples = load_samples(cfg, args, phase)
    return classes, model, samples


def load_model(cfg: Config, checkpoint: str) -> Any:
    """Build a model and load its weights strictly.

    Args:
        cfg: Config with a ``model``.
        checkpoint: Checkpoint that was trained with it.

    Returns:
        The model in evaluation mode, on the CPU.

    Raises:
        UserError: If the file is unreadable or belongs to another architecture.
    """
    model = fit_to_cpu(MODELS.build(cfg.model))
    state = load_checkpoint(checkpoint).get("state_dict", {})
    check_same_model(model, state, checkpoint)
    model.load_state_dict(state)
    model.train(False)
    return model


def picture_config(args: argparse.Namespace, phase: str) -> Config:
    """Load a config, check its data and set the seeds: nothing is built yet.

    Args:
        args: See :func:`picture_arguments`.
        phase: ``train`` or ``val``.

    Raises:
        UserError: For a wrong path or field, or broken data.
    """
    if not 0 <= args.seed < 2**32:
        raise UserError(f"--seed {args.seed}: give a seed of 0 or more, below 2**32")
    cmae_mm.compat.import_quietly()
    cfg = load_config(args.config, parse_options(args.cfg_options))
    if args.data_root:
        set_data_root(cfg, args.data_root)
    init_default_scope(cfg.get("default_scope", "mmengine"))
    check_datasets(cfg, (phase,))
    set_random_seed(args.seed)  # pipelines draw from Python's and NumPy's generators
    return cfg


def load_samples(
    cfg: Config, args: argparse.Namespace, phase: str
) -> tuple[tuple[str, ...], list[dict[str, Any]]]:
    """Read the chosen samples of a config.

    Args:
        cfg: See :func:`picture_config`.
        args: See :func:`picture_arguments`.
        phase: ``train`` or ``val``.

    Returns:
        Names of the classes, and the samples after their pipeline.

    Raises:
        UserError: An index is beyond the data set.
    """
    dataset = DATASETS.build(cfg[f"{phase}_dataloader"].dataset)
    if hasattr(dataset, "set_seed"):  # keyed draws: the global generators play no part
        dataset.set_seed(args.seed)
    classes = tuple((getattr(dataset, "metainfo", None) or {}).get("classes") or ())
    return classes, [dataset[i] for i in _indices(args, len(dataset))]


def _indices(args: argparse.Namespace, size: int) -> list[int]:
    if not args.images:
        if args.count < 1:
            raise UserError(f"--count {args.count}: give 1 or more")
        count = min(args.count, size)
        return [round(i * (size - 1) / max(count - 1, 1)) for i in range(count)]
    if wrong := [i for i in args.images if not 0 <= i < size]:
        raise UserError(f"--images {wrong[0]}: the data set has images 0 to {size - 1}; choose one of them")
    return list(args.images)


@torch.no_grad()
def predict(model: Any, sample: dict[str, Any]) -> Any:
    """Run one sample through the model.

    Args:
        model: A model in evaluation mode.
        sample: A sample after its pipeline.

    Returns:
        The data sample with predictions.
    """
    return model.test_step(pseudo_collate([sample]))[0]
