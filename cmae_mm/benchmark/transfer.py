"""``cmae-mm transfer``: one's own encoder on the tasks of the tables, in one command."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from cmae_mm.benchmark.given import arch_of
from cmae_mm.benchmark.reading import LIBRARY, backbone_of, library, read_toml, task_of
from cmae_mm.benchmark.recipe import Recipe, Task
from cmae_mm.errors import UserError

PRESETS = LIBRARY / "presets.toml"
"""Which task of the library each word means, by preset and architecture."""

USUAL_ARCH = "ViT-B/16"


def transfer_recipe(reference: str, tasks: Sequence[str], preset: str, name: str, arch: str) -> Recipe:
    """Make a recipe for one encoder.

    Args:
        reference: Path, address or ``hf://`` reference: a backbone file, or anything that ``cmae-mm import`` takes.
        tasks: Words such as linear, finetune, coco, ade20k.
        preset: ``full`` (the published protocols), ``short`` (the same with a shorter schedule) or ``mini``.
        name: Name of the row; made from the file's name if empty.
        arch: Architecture in tables, such as "ViT-L/16"; what the file says if empty, or ViT-B/16 if it says nothing.

    Returns:
        The recipe. Its tasks are those of the tables, so the row stands beside published ones wherever the protocol
        is theirs.

    Raises:
        UserError: If the file is missing, or a word names no task of the preset and architecture.
    """
    if "://" not in reference and not Path(reference).is_file():
        raise UserError(
            f"--backbone {reference}: no such file; give a path, an address or hf://org/name/file"
        )
    values = read_toml(PRESETS, "presets of cmae-mm transfer")
    words = values["preset"].get(preset)
    if words is None:
        raise UserError(f"--preset {preset}: there is none; use {', '.join(values['preset'])}")
    arch = arch or arch_of(reference) or (next(iter(words)) if len(words) == 1 else USUAL_ARCH)
    by_task = words.get(arch)
    if by_task is None:
        raise UserError(f"--arch {arch}: the preset {preset} has no tasks for it; it has {', '.join(words)}")
    data = values["data"].get(preset, {})
    title = name or Path(reference).name.split(".")[0]
    label = re.sub(r"[^A-Za-z0-9_-]+", "-", title).strip("-") or "backbone"
    source = reference if "://" in reference else str(Path(reference).absolute())
    return Recipe(
        name=label,
        title=f"{title} on {', '.join(tasks)}",
        note=str(values["note"].get(preset, "")),
        seeds=(0,),
        pretrain_each_seed=False,
        data_command=data.get("command", ""),
        data_root=data.get("root", ""),
        data_seconds=data.get("seconds", 0),
        backbones=(backbone_of({"name": label, "method": title, "arch": arch, "source": source}),),
        tasks=tuple(_task(word.strip(), by_task, preset) for word in tasks),
    )


def _task(word: str, by_task: dict[str, str], preset: str) -> Task:
    if word not in by_task:
        raise UserError(f"--tasks {word}: the preset {preset} has {', '.join(by_task)} for this architecture")
    values = {**library()[1][by_task[word]]}
    fits = {key: value for key, value in values.get("fits", {}).items() if key == "arch"}
    return task_of({**values, "fits": fits})  # what a table says of methods does not bind one's own
