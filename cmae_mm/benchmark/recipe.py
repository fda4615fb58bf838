"""A benchmark is data: what to pretrain, where to transfer it, over which seeds."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmae_mm.errors import UserError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
"""Where configs/ and tools/ are."""


@dataclass(frozen=True)
class Pretraining:
    """The pretraining of a recipe.

    Attributes:
        method: Name for tables.
        config: Config file, relative to the project.
        data: Folder below the data root.
        seconds: Rough duration on two cores.
        options: ``--cfg-options`` of the run.
    """

    method: str
    config: str
    data: str
    seconds: float
    options: Sequence[str] = ()


@dataclass(frozen=True)
class Task:
    """One transfer task.

    Attributes:
        name: Short name, used in paths.
        title: Name for tables.
        protocol: Protocol key; numbers of different protocols are never compared.
        config: Config file, relative to the project.
        data: Folder below the data root.
        metrics: Metric key of the record to the name in tables.
        seconds: Rough duration on two cores.
        scale: Factor from the recorded value to the unit of the table.
        pictures: Which ``tools/visualize_*.py`` shows its predictions; empty for none.
        options: ``--cfg-options`` of the runs.
    """

    name: str
    title: str
    protocol: str
    config: str
    data: str
    metrics: Mapping[str, str]
    seconds: float
    scale: float = 1.0
    pictures: str = ""
    options: Sequence[str] = ()


@dataclass(frozen=True)
class Recipe:
    """Everything that a benchmark runs.

    Attributes:
        name: Short name.
        title: Title of the report.
        seeds: Random seeds; each one pretrains and transfers.
        data_command: Which data set ``cmae-mm data`` makes; empty if ``data_root`` exists already.
        data_root: Folder of existing data; empty if it is made.
        data_seconds: Rough duration of making the data.
        pretrain: The pretraining.
        tasks: The transfer tasks.
    """

    name: str
    title: str
    seeds: tuple[int, ...]
    data_command: str
    data_root: str
    data_seconds: float
    pretrain: Pretraining
    tasks: tuple[Task, ...]


def load_recipe(path: str | Path) -> Recipe:
    """Read a recipe.

    Args:
        path: TOML file.

    Returns:
        The recipe; its configs exist.

    Raises:
        UserError: If the file is missing, not TOML, incomplete, or names a missing config.
    """
    try:
        values = tomllib.loads(Path(path).read_text())
    except OSError:
        raise UserError(f"{path}: no such benchmark recipe; recipes are under configs/benchmark/") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid TOML ({error})") from None
    try:
        recipe = _build(values)
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: a field is missing or unknown ({error}); compare configs/benchmark/mini.toml"
        ) from None
    _check(recipe, path)
    return recipe


def _check(recipe: Recipe, path: str | Path) -> None:
    if not recipe.seeds or not all(isinstance(seed, int) for seed in recipe.seeds):
        raise UserError(f"{path}: seeds must be a list of at least one number, for example seeds = [0]")
    if not (recipe.data_command or recipe.data_root):
        raise UserError(f"{path}: [data] needs command or root, so that the runs find data")
    names = [task.name for task in recipe.tasks]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"{path}: two tasks are named '{twice[0]}'; give each its own name")
    for task in recipe.tasks:
        if not isinstance(task.metrics, dict):
            raise UserError(
                f"{path}: the metrics of {task.name} must be a table from recorded to shown names, for example "
                f'{{ "mIoU" = "mIoU (%)" }}'
            )
        if task.pictures not in ("", "detections", "segmentation"):
            raise UserError(
                f"{path}: there is no picture tool '{task.pictures}'; use detections or segmentation"
            )
    for config in (recipe.pretrain.config, *(t.config for t in recipe.tasks)):
        if not (ROOT / config).is_file():
            raise UserError(f"{path}: names the config {config}, which does not exist; correct the path")


def _build(values: dict[str, Any]) -> Recipe:
    data = values["data"]
    return Recipe(
        name=values["name"],
        title=values["title"],
        seeds=tuple(values["seeds"]) if isinstance(values["seeds"], list) else (),
        data_command=data.get("command", ""),
        data_root=data.get("root", ""),
        data_seconds=data.get("seconds", 0),
        pretrain=Pretraining(**values["pretrain"]),
        tasks=tuple(Task(**task) for task in values["tasks"]),
    )
