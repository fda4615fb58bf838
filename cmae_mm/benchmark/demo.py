"""``cmae-mm demo``: a whole benchmark, from nothing to the table."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from cmae_mm.benchmark.progress import clock, total_remaining
from cmae_mm.benchmark.recipe import ROOT, Recipe, load_recipe
from cmae_mm.benchmark.records import collect
from cmae_mm.benchmark.scheduler import Scheduler, default_jobs
from cmae_mm.benchmark.stages import code_hash, plan, run_dir
from cmae_mm.benchmark.state import StateFolder, locked
from cmae_mm.errors import UserError
from cmae_mm.report.document import write_report


def run_demo(out: Path, recipe_path: str | None, seeds: Sequence[int] | None) -> int:
    """Run a recipe's open stages, then write and print the table.

    Args:
        out: Folder of all outputs.
        recipe_path: TOML recipe; the mini one if None.
        seeds: Random seeds; the recipe's if None.

    Returns:
        Exit code: 0 if everything is finished.
    """
    recipe = load_recipe(recipe_path or ROOT / "configs" / "benchmark" / "mini.toml")
    chosen = tuple(dict.fromkeys(seeds or recipe.seeds))
    _prepare(out)
    with locked(out):
        return _run(recipe, out, chosen)


def _prepare(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / ".gitignore").write_text((ROOT / "work_dirs.gitignore").read_text())
    except OSError as error:
        raise UserError(
            f"{out}: cannot be used as output folder ({error.strerror}); choose another --out"
        ) from None


def _run(recipe: Recipe, out: Path, chosen: tuple[int, ...]) -> int:
    began = time.monotonic()
    stages, jobs = plan(recipe, out.absolute(), chosen), default_jobs()
    scheduler = Scheduler(stages, StateFolder(out / "stages", code_hash()), out, jobs)
    open_stages = [s for s in stages if s.name not in scheduler.done]
    if open_stages:
        left = total_remaining({}, open_stages, jobs, 1.0)
        skipped = f", {len(scheduler.done)} are finished already" if scheduler.done else ""
        print(
            f"{recipe.title}: {len(open_stages)} stages to run{skipped}, {jobs} at a time; about {clock(left)}"
        )
    complete = scheduler.run()
    report, table = write_report(recipe, collect(recipe, out, chosen), _curves(recipe, out, chosen), out)
    print(f"\n{table}\n")
    if not complete:
        print(
            f"{len(scheduler.failed)} stages failed ({', '.join(scheduler.failed)}); run the same command to retry them"
        )
        return 1
    state = (
        f"finished in {clock(time.monotonic() - began)}" if open_stages else "everything was finished already"
    )
    print(f"{state}; report: {report}")
    return 0


def _curves(recipe: Recipe, out: Path, seeds: Sequence[int]) -> dict[str, dict[str, Path]]:
    """Where the scalar logs of the first seed are: task title -> initialisation -> work dir."""
    first = seeds[0]
    curves = {
        f"Pretraining ({recipe.pretrain.method})": {recipe.pretrain.method: run_dir(out, first, "pretrain")}
    }
    for task in recipe.tasks:
        curves[task.title] = {
            recipe.pretrain.method: run_dir(out, first, task.name, "pretrained"),
            "random": run_dir(out, first, task.name, "random"),
        }
    return curves
