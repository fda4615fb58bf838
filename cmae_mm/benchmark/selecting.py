"""Which stages of a plan are run, and how their commands read."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatch

from cmae_mm.benchmark.recipe import ROOT
from cmae_mm.benchmark.stages import Stage
from cmae_mm.errors import UserError


def chosen(stages: Sequence[Stage], words: Sequence[str]) -> list[Stage]:
    """Keep the stages that words of ``--only`` name, and what they need.

    Args:
        stages: Of a plan, in order.
        words: Kinds of stages, or patterns of names of backbones, tasks or stages.

    Returns:
        The stages, in order; all without words.

    Raises:
        UserError: If a word names nothing.
    """
    if not words:
        return list(stages)
    by_name = {stage.name: stage for stage in stages}
    open_: list[str] = []
    for word in words:
        found = [stage.name for stage in stages if any(fnmatch(name, word) for name in _names(stage))]
        if not found:
            some = ", ".join(dict.fromkeys(name for stage in stages for name in _names(stage)[:-1]))
            raise UserError(f"--only {word}: names no stage of this recipe; it has {some}")
        open_ += found
    kept: set[str] = set()
    while open_:
        name = open_.pop()
        if name not in kept:
            kept.add(name)
            open_ += by_name[name].needs
    return [stage for stage in stages if stage.name in kept]


def _names(stage: Stage) -> list[str]:
    return [stage.kind, *stage.labels, stage.name]


def with_commands(stages: Sequence[Stage]) -> list[Stage]:
    """Let each record name the commands that lead to it, in order.

    Args:
        stages: Each after what it needs.

    Returns:
        The same stages.
    """
    chains: dict[str, list[list[str]]] = {}
    made = []
    for stage in stages:
        before = [c for need in stage.needs for c in chains[need]]
        chains[stage.name] = [*(c for i, c in enumerate(before) if c not in before[:i]), shown(stage.argv)]
        record = None if stage.record is None else {**stage.record, "command": chains[stage.name]}
        made.append(replace(stage, record=record))
    return made


def shown(argv: Sequence[str]) -> list[str]:
    """Returns: A command as a person types it in the project's folder."""
    words = ["python" if word == sys.executable else word.removeprefix(f"{ROOT}/") for word in argv]
    place = words.index("-m") if "-m" in words else -1
    if words[0] == "python" and words[place : place + 2] == ["-m", "cmae_mm"]:
        return ["cmae-mm", *words[place + 2 :]]
    return words
