"""``cmae-mm bench``: a whole table, from nothing to the report."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cmae_mm.benchmark.dry_run import describe, hours_table
from cmae_mm.benchmark.launchers.base import Launcher
from cmae_mm.benchmark.launchers.local import LocalLauncher
from cmae_mm.benchmark.launchers.slurm import SlurmLauncher
from cmae_mm.benchmark.plan import Plan
from cmae_mm.benchmark.progress import clock, total_remaining
from cmae_mm.benchmark.recipe import ROOT, Recipe
from cmae_mm.benchmark.retrying import Retries
from cmae_mm.benchmark.scheduler import Scheduler
from cmae_mm.benchmark.selecting import chosen, with_commands
from cmae_mm.benchmark.stages import Stage
from cmae_mm.benchmark.state import StateFolder, locked, write_json
from cmae_mm.errors import UserError


@dataclass(frozen=True)
class Request:
    """What the command line asks for.

    Attributes:
        out: Folder of all outputs.
        seeds: Random seeds; the recipe's if empty.
        only: Words that choose stages.
        data_root: Folder of existing data; the recipe's if None.
        launcher: ``local`` or ``slurm``.
        sbatch: Further words for ``sbatch``.
        jobs: Programs without a GPU that run at a time on this machine.
        retries: Attempts after the first one for a stage that failed for an outside reason.
        command: The command, for the report.
    """

    out: Path
    seeds: tuple[int, ...] = ()
    only: tuple[str, ...] = ()
    data_root: str | None = None
    launcher: str = "local"
    sbatch: tuple[str, ...] = ()
    jobs: int | None = None
    retries: int = 3
    command: tuple[str, ...] = ()


def seeds_of(words: Sequence[str], recipe: Recipe) -> tuple[int, ...]:
    """The seeds that ``--seeds`` asks for.

    Args:
        words: One number is how many; several, or a list with commas, are the seeds themselves.
        recipe: Gives the first seed, and all without words.

    Returns:
        The seeds, each once.

    Raises:
        UserError: If a word is no number, or no seed is left.
    """
    if not words:
        return recipe.seeds
    parts = [part for word in words for part in word.split(",") if part]
    if not parts or not all(part.isdecimal() for part in parts):
        raise UserError(f"--seeds {' '.join(words)}: give how many (--seeds 3) or a list (--seeds 0,1,2)")
    numbers = [int(part) for part in parts]
    if len(words) == 1 and "," not in words[0]:
        if not numbers[0]:
            raise UserError("--seeds 0: a benchmark needs a seed; for the seed 0 alone write --seeds 0,")
        more = list(range(recipe.seeds[0], recipe.seeds[0] + numbers[0] + len(recipe.seeds)))
        return tuple(dict.fromkeys([*recipe.seeds, *more]))[: numbers[0]]
    return tuple(dict.fromkeys(numbers))


def planned(recipe: Recipe, request: Request) -> tuple[Recipe, list[Stage]]:
    """The stages that a request means.

    Args:
        recipe: What to run.
        request: How.

    Returns:
        The recipe with the request's data, and its stages in order.
    """
    if request.data_root:
        recipe = replace(recipe, data_command="", data_root=request.data_root)
    stages = Plan(recipe, request.out.absolute(), request.seeds or recipe.seeds).stages
    return recipe, with_commands(chosen(stages, request.only))


def dry_run(recipe: Recipe, request: Request) -> int:
    """Print what a benchmark would do; nothing is written.

    Args:
        recipe: What to run.
        request: How.

    Returns:
        Exit code.
    """
    recipe, stages = planned(recipe, request)
    state = StateFolder(request.out.absolute() / "stages", request.out.absolute())
    done: set[str] = set()
    for stage in stages:
        if set(stage.needs) <= done and state.finished(stage):
            done.add(stage.name)
    reasons = {stage.name: state.why_open(stage) for stage in stages if stage.name not in done}
    print(describe(recipe, stages, done, reasons, launcher_of(request, recipe, state)))
    return 0


def run_bench(recipe: Recipe, request: Request) -> int:
    """Run a recipe's open stages, then write the report and print the table.

    Args:
        recipe: What to run.
        request: How.

    Returns:
        Exit code: 0 if everything is finished.

    Raises:
        UserError: If outputs cannot be written, data is missing, or another benchmark runs there.
    """
    recipe, stages = planned(recipe, request)
    _check_data(recipe)
    _prepare(request.out)
    try:
        with locked(request.out):
            return _run(recipe, stages, request)
    except OSError as error:
        raise UserError(
            f"{request.out}: cannot be written or read ({error.strerror or error}); what was saved is kept, "
            f"make it work and run the same command"
        ) from error


def _check_data(recipe: Recipe) -> None:
    if recipe.data_root and not Path(recipe.data_root).is_dir():
        folders = sorted({task.data for task in recipe.tasks})
        raise UserError(
            f"{recipe.data_root}: no such folder of data; give --data-root a folder that holds {', '.join(folders)}"
        )


def _prepare(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / ".gitignore").write_text((ROOT / "work_dirs.gitignore").read_text())
    except OSError as error:
        raise UserError(
            f"{out}: cannot be used as output folder ({error.strerror}); choose another --out"
        ) from None


def launcher_of(request: Request, recipe: Recipe, state: StateFolder) -> Launcher:
    """Returns: The launcher that a request names."""
    if request.launcher == "slurm":
        words = replace(recipe.slurm, extra=(*recipe.slurm.extra, *request.sbatch))
        return SlurmLauncher(state, words)
    return LocalLauncher(state, request.jobs)


def _run(recipe: Recipe, stages: list[Stage], request: Request) -> int:
    began, out = time.monotonic(), request.out.absolute()
    state = StateFolder(out / "stages", out)
    launcher = launcher_of(request, recipe, state)
    scheduler = Scheduler(stages, state, launcher, Retries(request.retries))
    open_ = [stage for stage in stages if stage.name not in scheduler.done]
    plan = about(recipe, Plan(recipe, out, request.seeds or recipe.seeds).stages, request)
    write_json(out / "plans" / f"{recipe.name}.json", plan)  # several recipes may share the folder
    write_json(out / "benchmark.json", plan)
    if open_:
        _announce(recipe, open_, scheduler, launcher)
    complete = scheduler.run()
    from cmae_mm.report.command import table_text, write_report

    report = write_report(request.out)
    print(f"\n{table_text(request.out)}\n")
    if not complete:
        _mourn(scheduler)
    spent = clock(time.monotonic() - began)
    ending = f"finished in {spent}" if open_ else "everything was finished already"
    print(f"{ending if complete else f'ended after {spent}'}; report: {report}")
    return 0 if complete else 1


def _announce(recipe: Recipe, open_: Sequence[Stage], scheduler: Scheduler, launcher: Launcher) -> None:
    skipped = f", {len(scheduler.done)} are finished already" if scheduler.done else ""
    print(f"{recipe.title}: {len(open_)} stages to run{skipped}")
    if any(stage.cost.gpu_hours for stage in open_):
        print(f"estimated GPU hours (--dry-run tells more):\n{hours_table(open_)}")
    elif isinstance(launcher, LocalLauncher):
        left = total_remaining({}, open_, launcher.jobs, 1.0)
        print(f"{launcher.jobs} at a time; about {clock(left)} on two cores")
    for stage in open_:
        if (why := scheduler.state.why_open(stage)).endswith("changed"):
            print(f"  again: {stage.title} ({why})")


def _mourn(scheduler: Scheduler) -> None:
    for name, failure in scheduler.failed.items():
        print(f"failed: {name}: {failure.reason}")
    if scheduler.blocked:
        print(f"blocked by that: {', '.join(scheduler.blocked)}")
    print("run the same command to try again; what is finished is kept")


def about(recipe: Recipe, stages: Sequence[Stage], request: Request) -> dict[str, object]:
    """What was planned, for the report: rows without a record are told as not run.

    Args:
        recipe: What is run.
        stages: Its stages.
        request: How.

    Returns:
        Plain data for ``benchmark.json``: rows of the table, records in its order, and which runs belong to it.
    """
    belong = {(str(s.record["backbone_name"]), str(s.record["task_name"])) for s in stages if s.record}
    rows: dict[tuple[object, ...], dict[str, object]] = {}
    records = []
    for stage in stages:
        record = stage.record
        if record is None or not record["protocol"]:
            continue
        records.append(stage.name)
        keys = ("task", "protocol", "method", "variant", "backbone", "epochs", "weights", "backbone_name")
        row = rows.setdefault(tuple(record[k] for k in keys), {**{k: record[k] for k in keys}, "seeds": []})
        row["seeds"] = [*row["seeds"], record["seed"]]  # type: ignore[misc]
    return {
        "schema": 1,
        "name": recipe.name,
        "title": recipe.title,
        "note": recipe.note,
        "command": list(request.command),
        "planned": list(rows.values()),
        "records": records,
        "rows": sorted(map(list, belong)),
    }
