"""What can be wrong in a recipe is said before anything runs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path

from cmae_mm.benchmark.recipe import ROOT, Backbone, Recipe, Task
from cmae_mm.errors import UserError

_PICTURES = ("", "detections", "segmentation")
_NAME = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")


def check_recipe(recipe: Recipe, path: Path) -> None:
    """Check a recipe as a whole.

    Args:
        recipe: What was read.
        path: Its file, for messages.

    Raises:
        UserError: Naming the first mistake.
    """
    if not recipe.seeds or not all(isinstance(seed, int) for seed in recipe.seeds):
        raise UserError(f"{path}: seeds must be a list of at least one number, for example seeds = [0]")
    if not (recipe.data_command or recipe.data_root):
        raise UserError(f"{path}: [data] needs command or root, so that the runs find data")
    if not (recipe.backbones and recipe.tasks):
        raise UserError(f"{path}: backbones and tasks must each name at least one")
    _check_names("backbones", (b.name for b in recipe.backbones), path)
    _check_names("tasks", (t.name for t in recipe.tasks), path)
    for task in recipe.tasks:
        _check_fields(task, path)
    for backbone in recipe.backbones:
        _check_backbone(backbone, recipe, path)
    for task in recipe.tasks:
        if not any(task.takes(backbone) for backbone in recipe.backbones):
            raise UserError(f"{path}: the task {task.name} takes none of the backbones; see its fits")


def _check_names(kind: str, names: Iterable[str], path: Path) -> None:
    seen: set[str] = set()
    for name in names:
        if not name or not set(name) <= _NAME:
            raise UserError(f"{path}: '{name}' is no name of {kind}: use letters, digits, - and _")
        if name in seen:
            raise UserError(f"{path}: two {kind} are named '{name}'; give each its own name")
        seen.add(name)


def _check_backbone(backbone: Backbone, recipe: Recipe, path: Path) -> None:
    if backbone.config and backbone.source:
        raise UserError(
            f"{path}: {backbone.name} has a config and a source; it is pretrained or given, not both"
        )
    _check_config(backbone.config, path)
    known = {task.name for task in recipe.tasks}
    if lost := [name for name in backbone.tasks if name not in known]:
        raise UserError(f"{path}: {backbone.name} names the task '{lost[0]}', which the recipe does not have")
    if not any(task.takes(backbone) for task in recipe.tasks):
        raise UserError(
            f"{path}: no task of the recipe takes {backbone.name} ({backbone.arch or 'no arch'}); see fits of the tasks"
        )


def _check_fields(task: Task, path: Path) -> None:
    if not isinstance(task.main_metrics, tuple) or not task.main_metrics:
        raise UserError(
            f"{path}: main_metrics of {task.name} must be a list of what its record holds, for example "
            '["coco/bbox_mAP"]'
        )
    if task.pictures not in _PICTURES:
        raise UserError(f"{path}: there is no picture tool '{task.pictures}'; use detections or segmentation")
    allowed = {f.name for f in fields(Backbone)}
    if wrong := [key for key in task.fits if key not in allowed]:
        raise UserError(f"{path}: fits of {task.name} names '{wrong[0]}', which no backbone has")
    for program in (task.program, *(evaluation.program for evaluation in task.evaluations)):
        if not (ROOT / "tools" / f"{program}.py").is_file():
            raise UserError(f"{path}: {task.name} names tools/{program}.py, which does not exist")
    _check_config(task.config, path)


def _check_config(config: str, path: Path) -> None:
    if config and not (ROOT / config).is_file():
        raise UserError(f"{path}: names the config {config}, which does not exist; correct the path")
