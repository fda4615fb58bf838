"""The words of ``cmae-mm bench``, ``demo`` and ``transfer``."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from cmae_mm.benchmark.bench import Request, dry_run, run_bench, seeds_of
from cmae_mm.benchmark.reading import find_recipe, load_recipe
from cmae_mm.benchmark.recipe import Recipe
from cmae_mm.benchmark.transfer import transfer_recipe


def bench_command(args: argparse.Namespace) -> int:
    """Run, or with ``--dry-run`` describe, a recipe.

    Args:
        args: Parsed words.

    Returns:
        Exit code.
    """
    path = find_recipe(args.recipe)
    out = Path(args.out) if args.out else Path("work_dirs") / "bench" / path.stem
    return _go(load_recipe(path), out, args, ("cmae-mm", "bench", str(args.recipe)))


def transfer_command(args: argparse.Namespace) -> int:
    """Transfer one encoder to the tasks that were named.

    Args:
        args: Parsed words.

    Returns:
        Exit code.
    """
    recipe = transfer_recipe(args.backbone, args.tasks.split(","), args.preset, args.name, args.arch)
    out = Path(args.out) if args.out else Path("work_dirs") / "transfer" / recipe.name
    words = (
        "cmae-mm",
        "transfer",
        "--backbone",
        args.backbone,
        "--tasks",
        args.tasks,
        "--preset",
        args.preset,
    )
    return _go(recipe, out, args, words)


def _go(recipe: Recipe, out: Path, args: argparse.Namespace, words: tuple[str, ...]) -> int:
    request = Request(
        out=out,
        seeds=seeds_of(args.seeds or (), recipe),
        only=tuple(args.only or ()),
        data_root=args.data_root,
        launcher=args.launcher,
        sbatch=tuple(shlex.split(args.sbatch or "")),
        jobs=args.jobs,
        retries=args.retries,
        command=words,
    )
    return dry_run(recipe, request) if args.dry_run else run_bench(recipe, request)
