"""From a recipe to stages: separate programs with what they need and what they make."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path

from cmae_mm.benchmark.recipe import ROOT, Pretraining, Recipe, Task

INITS = ("random", "pretrained")
_CODE_ROOMS = ("pretrain", "checkpoints", "transfer", "data", "engine")


@dataclass(frozen=True)
class Stage:
    """One program of a benchmark.

    Attributes:
        name: Unique; also the name of its log and state file.
        title: What a person reads.
        argv: The command.
        needs: Names of stages that must be finished before.
        makes: Files that exist when it is done.
        progress: JSON file with ``done`` and ``total`` that it updates; None if it has none.
        seconds: Rough duration.
        inputs: Files whose content the result depends on, beside the code.
    """

    name: str
    title: str
    argv: tuple[str, ...]
    needs: tuple[str, ...]
    makes: tuple[Path, ...]
    progress: Path | None
    seconds: float
    inputs: tuple[Path, ...] = ()

    def fingerprint(self, code: str) -> str:
        """Hash of the command, the content of the inputs and the code.

        Args:
            code: Hash of the code, see :func:`code_hash`.

        Returns:
            Hexadecimal digest.
        """
        digest = hashlib.sha256(code.encode())
        digest.update("\0".join(self.argv).encode())
        for path in self.inputs:
            _update(digest, path)
        return digest.hexdigest()


def _update(digest: hashlib._Hash, path: Path) -> None:
    """Add a file's content, in blocks: checkpoints can be larger than a gigabyte."""
    if not path.is_file():
        digest.update(b"absent")
        return
    with open(path, "rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)


def code_hash() -> str:
    """Returns: Hash of everything that changes a number: configs and the rooms that runs import."""
    digest = hashlib.sha256()
    folders = [ROOT / "cmae_mm" / room for room in _CODE_ROOMS] + [ROOT / "configs"]
    for folder in folders:
        for path in sorted(folder.rglob("*.py")):
            digest.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    return digest.hexdigest()


def run_dir(out: Path, seed: int, task: str, init: str = "") -> Path:
    """Returns: The work dir of one run."""
    return out / "runs" / f"seed{seed}" / "-".join(filter(None, (task, init)))


def backbone_path(out: Path, recipe: Recipe, seed: int) -> Path:
    """Returns: The backbone file that a seed's pretraining ends in."""
    return out / "backbones" / f"{recipe.pretrain.method.lower()}-seed{seed}.safetensors"


def plan(recipe: Recipe, out: Path, seeds: tuple[int, ...]) -> list[Stage]:
    """List the stages of a benchmark, each after what it needs.

    Args:
        recipe: What to run.
        out: Folder of all outputs.
        seeds: Random seeds.

    Returns:
        The stages.
    """
    stages = [_data(recipe, out)] if recipe.data_command else []
    for seed in seeds:  # the longest programs first: nothing waits for one that started late
        stages += _pretraining(recipe, out, seed)
    for seed in seeds:
        for task in recipe.tasks:
            stages += [_transfer(recipe, out, seed, task, init) for init in INITS]
    first = seeds[0]
    stages += [_pictures(recipe, out, first, task) for task in recipe.tasks if task.pictures]
    return stages


def data_root(recipe: Recipe, out: Path) -> Path:
    """Returns: The folder that holds the recipe's data."""
    return Path(recipe.data_root) if recipe.data_root else out / "data"


def _suite(*words: object) -> tuple[str, ...]:
    """A ``cmae-mm`` command."""
    return (sys.executable, "-m", "cmae_mm", *map(str, words))


def _tool(name: str, *words: object) -> tuple[str, ...]:
    """A program of tools/."""
    return (sys.executable, str(ROOT / "tools" / name), *map(str, words))


def _options(part: Pretraining | Task) -> tuple[str, ...]:
    return ("--cfg-options", *part.options) if part.options else ()


def _data(recipe: Recipe, out: Path) -> Stage:
    root = data_root(recipe, out)
    argv = _suite("data", recipe.data_command, "--out", root, "--sheets", out / "pictures" / "data")
    return Stage("data", "render the data", argv, (), (root / "manifest.json",), None, recipe.data_seconds)


def _train(recipe: Recipe, out: Path, part: Pretraining | Task, work: Path, seed: int) -> tuple[str, ...]:
    data = data_root(recipe, out) / part.data
    words = ("--work-dir", work, "--data-root", data, "--seed", seed, "--resume")
    return (*_tool("train.py", ROOT / part.config, *words), *_options(part))


def _pretraining(recipe: Recipe, out: Path, seed: int) -> list[Stage]:
    part, name = recipe.pretrain, f"seed{seed}-pretrain"
    work, backbone = run_dir(out, seed, "pretrain"), backbone_path(out, recipe, seed)
    checkpoint, picture = work / "last.pth", out / "pictures" / f"views-seed{seed}.png"
    data = ("data",) if recipe.data_command else ()
    train = _train(recipe, out, part, work, seed)
    makes = (work / "result.json", checkpoint)
    backbone_file = _suite("import", checkpoint, "--out", backbone, "--force")
    words = (
        ROOT / part.config,
        checkpoint,
        "--data-root",
        data_root(recipe, out) / part.data,
        "--out",
        picture,
    )
    draw = (*_tool("visualize_pretraining.py", *words), *_options(part))
    return [
        Stage(name, f"pretrain {part.method}", train, data, makes, work / "progress.json", part.seconds),
        Stage(
            f"seed{seed}-backbone",
            "backbone file, compare with timm",
            backbone_file,
            (name,),
            (backbone,),
            None,
            8,
            (checkpoint,),
        ),
        Stage(f"seed{seed}-views", "picture the views", draw, (name,), (picture,), None, 10, (checkpoint,)),
    ]


def _transfer(recipe: Recipe, out: Path, seed: int, task: Task, init: str) -> Stage:
    work = run_dir(out, seed, task.name, init)
    argv = _train(recipe, out, task, work, seed)
    needs = ("data",) if recipe.data_command else ()
    inputs: tuple[Path, ...] = ()
    if init == "pretrained":
        backbone = backbone_path(out, recipe, seed)
        argv, needs, inputs = (*argv, "--backbone", str(backbone)), (f"seed{seed}-backbone",), (backbone,)
    side = recipe.pretrain.method if init == "pretrained" else "random init"
    name, makes = f"seed{seed}-{task.name}-{init}", (work / "result.json", work / "last.pth")
    progress = work / "progress.json"
    return Stage(name, f"{task.title}, {side}", argv, needs, makes, progress, task.seconds, inputs)


def _pictures(recipe: Recipe, out: Path, seed: int, task: Task) -> Stage:
    picture = out / "pictures" / f"{task.name}-predictions.png"
    checkpoint = run_dir(out, seed, task.name, "pretrained") / "last.pth"
    words = (
        ROOT / task.config,
        checkpoint,
        "--data-root",
        data_root(recipe, out) / task.data,
        "--out",
        picture,
    )
    argv = (*_tool(f"visualize_{task.pictures}.py", *words), *_options(task))
    needs = (f"seed{seed}-{task.name}-pretrained",)
    name = f"{task.name}-pictures"
    return Stage(name, f"picture {task.title}", argv, needs, (picture,), None, 12, (checkpoint,))
