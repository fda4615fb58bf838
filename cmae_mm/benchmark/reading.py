"""Read a recipe (TOML) with the pieces that it takes from the library."""

from __future__ import annotations

import difflib
import functools
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from cmae_mm.benchmark.checking import check_recipe
from cmae_mm.benchmark.costs import cost_of
from cmae_mm.benchmark.recipe import ROOT, Backbone, Evaluation, Recipe, Slurm, Task
from cmae_mm.errors import UserError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

RECIPES = ROOT / "configs" / "benchmark"
LIBRARY = RECIPES / "library"
_TOP = {"title", "note", "seeds", "pretrain_each_seed", "data", "backbones", "tasks", "slurm"}
_COST = {"gpu_hours", "gpus", "seconds", "basis", "gmacs", "images"}


def find_recipe(word: str | Path) -> Path:
    """Returns: The file that a word of the command line names: a path, or the stem of a shipped recipe."""
    path = Path(word)
    shipped = RECIPES / f"{path.name.removesuffix('.toml')}.toml"
    return path if path.suffix == ".toml" or path.exists() or not shipped.is_file() else shipped


def load_recipe(path: str | Path) -> Recipe:
    """Read a recipe.

    Args:
        path: TOML file, or the name of a shipped recipe.

    Returns:
        The recipe; its configs exist, and each backbone has a task.

    Raises:
        UserError: If the file is missing, not TOML, incomplete, or names what does not exist.
    """
    path = find_recipe(path)
    values = read_toml(path, "benchmark recipe; recipes are under configs/benchmark/")
    try:
        recipe = _build(values, path)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path}: a field is missing or unknown ({error}); compare configs/benchmark/mini.toml"
        ) from None
    check_recipe(recipe, path)
    return recipe


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """Read a TOML file.

    Args:
        path: The file.
        what: What it should be, for the message.

    Returns:
        Its values.

    Raises:
        UserError: If it cannot be read.
    """
    try:
        return tomllib.loads(path.read_text())
    except OSError:
        raise UserError(f"{path}: no such {what}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid TOML ({error})") from None


@functools.lru_cache(maxsize=1)
def library() -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """Returns: The tables of the library's backbones and of its tasks, by name."""
    found: tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]] = ({}, {})
    for path in sorted(LIBRARY.glob("*.toml")):
        values = read_toml(path, "library of recipes")
        for kind, tables in zip(("backbones", "tasks"), found, strict=True):
            for name, entry in values.get(kind, {}).items():
                if name in tables:
                    raise UserError(f"{path}: '{name}' stands in the library twice")
                tables[name] = {"name": name, **entry}
    return found


def _build(values: dict[str, Any], path: Path) -> Recipe:
    if unknown := set(values) - _TOP:
        raise KeyError(sorted(unknown)[0])
    data = values["data"]
    known_backbones, known_tasks = library()
    return Recipe(
        name=path.stem,
        title=values["title"],
        note=values.get("note", ""),
        seeds=tuple(values["seeds"]) if isinstance(values["seeds"], list) else (),
        pretrain_each_seed=bool(values.get("pretrain_each_seed", False)),
        data_command=data.get("command", ""),
        data_root=data.get("root", ""),
        data_seconds=data.get("seconds", 0),
        backbones=tuple(backbone_of(_merged(e, known_backbones, path)) for e in values["backbones"]),
        tasks=tuple(task_of(_merged(e, known_tasks, path)) for e in values["tasks"]),
        slurm=Slurm(**_tuples(values.get("slurm", {}))),
    )


def _merged(entry: str | dict[str, Any], known: Mapping[str, dict[str, Any]], path: Path) -> dict[str, Any]:
    """The table of an entry of a list: of a name, a table, or a table that changes a named one."""
    name = entry if isinstance(entry, str) else entry.get("like")
    if name is None:
        return dict(entry)  # type: ignore[arg-type]
    if name not in known:
        close = difflib.get_close_matches(str(name), known, n=1)
        advice = f"; did you mean '{close[0]}'?" if close else ""
        raise UserError(f"{path}: names '{name}', which configs/benchmark/library does not have{advice}")
    if isinstance(entry, str):
        return dict(known[name])
    changes = {key: value for key, value in entry.items() if key != "like"}
    if "name" not in changes:
        raise UserError(f"{path}: an entry like '{name}' is another one and needs a name of its own")
    kept = {k: v for k, v in known[name].items() if not (k in _COST and set(changes) & _COST)}
    return {**kept, **changes}


def backbone_of(values: dict[str, Any]) -> Backbone:
    """Returns: A backbone from its table."""
    cost = {key: values.pop(key) for key in _COST & set(values)}
    made = Backbone(**_tuples(values))
    return replace(made, cost=cost_of(cost, made.epochs))


def task_of(values: dict[str, Any]) -> Task:
    """Returns: A task from its table."""
    cost = {key: values.pop(key) for key in _COST & set(values)}
    evaluations = tuple(_evaluation(dict(entry)) for entry in values.pop("evaluations", ()))
    values["fits"] = {
        key: tuple(value) if isinstance(value, (list, tuple)) else (value,)
        for key, value in values.get("fits", {}).items()
    }
    return Task(**_tuples(values), evaluations=evaluations, cost=cost_of(cost, None))


def _evaluation(values: dict[str, Any]) -> Evaluation:
    cost = {key: values.pop(key) for key in _COST & set(values)}
    return Evaluation(**_tuples(values), cost=cost_of(cost, None))


def _tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
