"""What a benchmark would do: its stages, commands and GPU hours, before anything starts."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping, Sequence

from cmae_mm.benchmark.launchers.base import Launcher
from cmae_mm.benchmark.plan import KINDS
from cmae_mm.benchmark.progress import clock
from cmae_mm.benchmark.recipe import Recipe
from cmae_mm.benchmark.selecting import shown
from cmae_mm.benchmark.stages import Stage


def hours_table(stages: Sequence[Stage]) -> str:
    """GPU hours of the stages by kind.

    Args:
        stages: Of a plan.

    Returns:
        Lines of text: a row for each kind, and the sum.
    """
    rows = []
    for kind in KINDS:
        found = [stage for stage in stages if stage.kind == kind]
        if found:
            rows.append((kind, str(len(found)), _hours(sum(s.cost.gpu_hours for s in found))))
    rows.append(("all", str(len(stages)), _hours(sum(s.cost.gpu_hours for s in stages))))
    lines = [
        f"  {kind:<10} {count:>7} {hours:>12}" for kind, count, hours in [("", "stages", "GPU hours"), *rows]
    ]
    return "\n".join(lines)


def _hours(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 10 else f"{hours:.1f}"


def describe(
    recipe: Recipe,
    stages: Sequence[Stage],
    done: Collection[str],
    reasons: Mapping[str, str],
    launcher: Launcher,
) -> str:
    """The whole plan in words.

    Args:
        recipe: Its recipe.
        stages: Its stages, in order.
        done: Names of those that are finished.
        reasons: Why a stage has to run again, by name.
        launcher: What would run them.

    Returns:
        Text: the stages with what they need, GPU hours with their basis, and the exact commands.
    """
    open_ = [stage for stage in stages if stage.name not in done]
    lines = [f"{recipe.title}: {len(stages)} stages, {len(done)} finished already", "", "Stages, in order:"]
    for stage in stages:
        state = "done" if stage.name in done else (reasons.get(stage.name) or "open")
        lines.append(f"  {stage.name} [{stage.kind}, {_price(stage)}, {state}]")
        if stage.needs:
            lines.append(f"      after {', '.join(stage.needs)}")
    lines += [
        "",
        "Estimated GPU hours of what is open (estimates, not measurements; an A100 where nothing else is said):",
    ]
    lines += [hours_table(open_), ""]
    lines += [f"  {basis}: {', '.join(names)}" for basis, names in _bases(open_).items()]
    lines += ["", "Commands, as they would be run here in the project's folder:"]
    for stage in open_:
        lines += [f"# {stage.name}: {stage.title}", shlex.join(shown(launcher.command(stage)))]
    return "\n".join(lines)


def _price(stage: Stage) -> str:
    cost = stage.cost
    if cost.gpu_hours:
        return f"{_hours(cost.gpu_hours)} GPU hours on {cost.gpus} GPUs = {clock(stage.seconds)}"
    return f"about {clock(stage.seconds)}" if stage.seconds else "unknown time"


def _bases(stages: Sequence[Stage]) -> dict[str, list[str]]:
    """Where the figures come from, with what they are used for."""
    found: dict[str, list[str]] = {}
    for stage in stages:
        if stage.cost.gpu_hours:
            names = found.setdefault(stage.cost.basis or "no source given", [])
            about = stage.record or {}
            name = about.get("backbone_name") if stage.kind == "pretrain" else about.get("task_name")
            if name and name not in names:
                names.append(str(name))
    return found
