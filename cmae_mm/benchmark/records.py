"""Result records: one number with everything that a table needs to trust it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cmae_mm.benchmark.recipe import Recipe
from cmae_mm.benchmark.stages import INITS, backbone_path, run_dir
from cmae_mm.benchmark.state import read_json, write_json


def collect(recipe: Recipe, out: Path, seeds: tuple[int, ...]) -> list[dict[str, Any]]:
    """Read what the runs wrote and make one record per task, metric, initialisation and seed.

    Args:
        recipe: What was run.
        out: Folder of all outputs; ``records/records.json`` is written there.
        seeds: Random seeds.

    Returns:
        The records; runs that are not finished have none.
    """
    records = []
    for seed in seeds:
        for task in recipe.tasks:
            for init in INITS:
                run = read_json(run_dir(out, seed, task.name, init) / "result.json")
                for key, metric in task.metrics.items():
                    if key in run.get("last", {}):
                        found = _record(recipe, seed, init, run, key)
                        backbone = (
                            str(backbone_path(out, recipe, seed).name) if init == "pretrained" else None
                        )
                        scaled = {part: run[part][key] * task.scale for part in ("last", "best")}
                        found |= {"task": task.title, "protocol": task.protocol, "metric": metric}
                        found |= {"value": scaled["last"], "best": scaled["best"], "backbone": backbone}
                        records.append(found)
    write_json(out / "records" / "records.json", {"recipe": recipe.name, "records": records})
    return records


def _record(recipe: Recipe, seed: int, init: str, run: dict[str, Any], key: str) -> dict[str, Any]:
    return {
        "init": recipe.pretrain.method if init == "pretrained" else "random",
        "seed": seed,
        "metric_key": key,
        **{
            k: run.get(k)
            for k in ("config", "commit", "device", "seconds", "iterations", "backbone_sha256", "versions")
        },
    }
