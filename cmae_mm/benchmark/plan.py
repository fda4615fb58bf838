"""From a recipe to stages: data, pretraining, backbone files, transfer, evaluation, pictures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from cmae_mm.benchmark.given import header_of
from cmae_mm.benchmark.recipe import ROOT, Backbone, Cost, Evaluation, Recipe, Task
from cmae_mm.benchmark.stages import Stage, suite, tool

RESULT_FILES = {"test": "test_result.json", "dense_knn": "test_result.json"}
"""Where programs write their metrics, if not in ``result.json``."""

KINDS = ("data", "pretrain", "import", "transfer", "evaluate", "pictures")


class Plan:
    """The stages of a benchmark, each after what it needs.

    Args:
        recipe: What to run.
        out: Folder of all outputs.
        seeds: Random seeds.
    """

    def __init__(self, recipe: Recipe, out: Path, seeds: Sequence[int]) -> None:
        self.recipe, self.out, self.seeds = recipe, out, tuple(seeds)
        self.stages: list[Stage] = [self._data()] if recipe.data_command else []
        for (
            backbone
        ) in recipe.backbones:  # the longest programs first: nothing waits for one that started late
            for seed in self._pretraining_seeds(backbone):
                self.stages += self._backbone(backbone, seed)
        for seed in self.seeds:
            for backbone, task in recipe.pairs():
                if task.seeded or seed == self.seeds[0]:
                    self.stages += self._transfer(backbone, task, seed)
        pictures = [self._pictures(b, t) for b, t in recipe.pairs() if t.pictures and not b.is_random]
        self.stages += pictures

    def _pretraining_seeds(self, backbone: Backbone) -> tuple[int, ...]:
        if backbone.is_random or self._ready_made(backbone):
            return ()
        return self.seeds if backbone.config and self.recipe.pretrain_each_seed else self.seeds[:1]

    def _own(self, backbone: Backbone, seed: int) -> str:
        """Which pretraining a run of a seed starts from, as part of names."""
        if not backbone.config:
            return backbone.name
        return f"{backbone.name}-seed{seed if self.recipe.pretrain_each_seed else self.seeds[0]}"

    def _data_root(self) -> Path:
        return Path(self.recipe.data_root).absolute() if self.recipe.data_root else self.out / "data"

    def _manifest(self) -> tuple[Path, ...]:
        return (self._data_root() / "manifest.json",) if self.recipe.data_command else ()

    def _first_needs(self) -> tuple[str, ...]:
        return ("data",) if self.recipe.data_command else ()

    def backbone_file(self, backbone: Backbone, seed: int) -> Path:
        """Returns: The backbone file that a run of a seed starts from."""
        given = self._ready_made(backbone)
        return given or self.out / "backbones" / f"{self._own(backbone, seed)}.safetensors"

    def _ready_made(self, backbone: Backbone) -> Path | None:
        """The file of given weights that need no import."""
        files = self._source(backbone.source)[1] if backbone.source else ()
        return next((file for file in files if header_of(file)), None)

    def run_dir(self, backbone: Backbone, task: str, seed: int) -> Path:
        """Returns: The work dir of a run."""
        return self.out / "runs" / backbone.name / f"seed{seed}" / task

    def _data(self) -> Stage:
        root = self._data_root()
        argv = suite(
            "data", self.recipe.data_command, "--out", root, "--sheets", self.out / "pictures" / "data"
        )
        cost = Cost(seconds=self.recipe.data_seconds)
        return Stage("data", "render the data", "data", argv, makes=self._manifest(), cost=cost)

    def _source(self, source: str) -> tuple[str, tuple[Path, ...]]:
        """Given weights, and the files that they are: a path is one below the data, or of the current folder."""
        if "://" in source:
            return source, ()
        below = self._data_root() / source
        path = below if below.exists() or not Path(source).exists() else Path(source).absolute()
        return str(path), (path,)

    def _train(self, config: str, data: str, work: Path, seed: int) -> tuple[str, ...]:
        words = ("--work-dir", work, "--data-root", self._data_root() / data, "--seed", seed)
        return (str(ROOT / config), *map(str, words))

    def _backbone(self, backbone: Backbone, seed: int) -> list[Stage]:
        file, own = self.backbone_file(backbone, seed), self._own(backbone, seed)
        if backbone.source:
            source, inputs = self._source(backbone.source)
            argv = suite("import", source, "--out", file, "--force", *backbone.import_options)
            title = f"import {backbone.method} ({source.rpartition('/')[2]})"
            return [
                Stage(
                    f"{own}.import", title, "import", argv, (), (file,), cost=Cost(seconds=8), inputs=inputs,
                    labels=(backbone.name,),
                )
            ]  # fmt: skip
        work = self.run_dir(backbone, "pretrain", seed)
        checkpoint, picture = work / "last.pth", self.out / "pictures" / f"views-{own}.png"
        argv = (*tool("train"), *self._train(backbone.config, backbone.data, work, seed), "--resume")
        argv += _options(backbone.options)
        about = f"{backbone.method}{f', {backbone.variant}' if backbone.variant else ''}"
        train = Stage(
            f"{own}.pretrain", f"pretrain {about}", "pretrain", argv, self._first_needs(),
            (work / "result.json", checkpoint), work, backbone.cost, backbone.config, self._manifest(),
            self._data_root() / backbone.data, work / "result.json",
            self._record(backbone, "pretrain", seed, work, ((picture, "reconstructions"),)),
            labels=(backbone.name,),
        )  # fmt: skip
        to_file = Stage(
            f"{own}.import", f"backbone file of {about}", "import",
            suite("import", checkpoint, "--out", file, "--force"), (train.name,), (file,),
            cost=Cost(seconds=8), inputs=(checkpoint,), labels=(backbone.name,),
        )  # fmt: skip
        draw = (*tool("visualize_pretraining", ROOT / backbone.config, checkpoint), "--data-root")
        draw += (str(self._data_root() / backbone.data), "--out", str(picture), *_options(backbone.options))
        views = Stage(
            f"{own}.views", f"picture the views of {about}", "pictures", draw, (train.name,), (picture,),
            cost=Cost(seconds=10, gpus=min(1, backbone.cost.gpus)),
            config=backbone.config, inputs=(checkpoint,), labels=(backbone.name,),
        )  # fmt: skip
        return [train, to_file, views]

    def _transfer(self, backbone: Backbone, task: Task, seed: int) -> list[Stage]:
        work = self.run_dir(backbone, task.name, seed)
        argv = (*tool(task.program), *self._train(task.config, task.data, work, seed))
        needs, inputs = self._first_needs(), self._manifest()
        if task.program == "train":
            argv += ("--resume",)
        if not backbone.is_random:
            file = self.backbone_file(backbone, seed)
            argv += ("--backbone", str(file))
            inputs = (file, *inputs)
            if not self._ready_made(backbone):
                needs = (f"{self._own(backbone, seed)}.import", *needs)
        argv += (*task.arguments, *_options(task.options))
        result = work / RESULT_FILES.get(task.program, "result.json")
        makes = (result, work / "last.pth") if task.program == "train" else (result,)
        drawn = (
            ()
            if backbone.is_random or not task.pictures
            else ((self._picture(backbone, task), task.pictures),)
        )
        record = self._record(backbone, "transfer", seed, work, drawn if seed == self.seeds[0] else ())
        record |= _about_task(task, task.title, task.protocol, task.main_metrics, task.cost)
        name = f"{backbone.name}-seed{seed}.{task.name}"
        title = f"{task.title}, {backbone.variant or backbone.method}"
        run = Stage(
            name, title, "transfer", argv, needs, makes, work, task.cost, task.config, inputs,
            self._data_root() / task.data, result, record, (backbone.name, task.name),
        )  # fmt: skip
        return [run, *(self._evaluation(run, backbone, task, evaluation) for evaluation in task.evaluations)]

    def _evaluation(self, run: Stage, backbone: Backbone, task: Task, evaluation: Evaluation) -> Stage:
        work = Path(f"{run.work}-{evaluation.name}")
        checkpoint, data = Path(str(run.work)) / "last.pth", self._data_root() / task.data
        words = (
            ROOT / task.config,
            checkpoint,
            "--work-dir",
            work,
            "--data-root",
            data,
            *evaluation.arguments,
        )
        argv = (*tool(evaluation.program, *words), *_options(task.options))
        result = work / RESULT_FILES.get(evaluation.program, "result.json")
        record = {**(run.record or {}), "kind": "evaluate", "pictures": [], "curves": []}
        record |= _about_task(
            task, evaluation.title, evaluation.protocol, evaluation.main_metrics, evaluation.cost
        )
        record["task_name"] = f"{task.name}-{evaluation.name}"
        return Stage(
            f"{run.name}-{evaluation.name}", f"{evaluation.title}, {backbone.variant or backbone.method}", "evaluate",
            argv, (run.name,), (result,), work, evaluation.cost, task.config, (checkpoint,), data, result, record,
            (backbone.name, task.name),
        )  # fmt: skip

    def _picture(self, backbone: Backbone, task: Task) -> Path:
        return self.out / "pictures" / f"{task.name}-{backbone.name}.png"

    def _pictures(self, backbone: Backbone, task: Task) -> Stage:
        seed, picture = self.seeds[0], self._picture(backbone, task)
        checkpoint = self.run_dir(backbone, task.name, seed) / "last.pth"
        words = (
            ROOT / task.config,
            checkpoint,
            "--data-root",
            self._data_root() / task.data,
            "--out",
            picture,
        )
        return Stage(
            f"{backbone.name}.{task.name}-pictures", f"picture {task.title}, {backbone.variant or backbone.method}",
            "pictures", (*tool(f"visualize_{task.pictures}", *words), *_options(task.options)),
            (f"{backbone.name}-seed{seed}.{task.name}",), (picture,),
            cost=Cost(seconds=12, gpus=min(1, task.cost.gpus)),
            config=task.config, inputs=(checkpoint,), data=self._data_root() / task.data,
            labels=(backbone.name, task.name),
        )  # fmt: skip

    def _record(
        self, backbone: Backbone, kind: str, seed: int, work: Path, pictures: Iterable[tuple[Path, str]]
    ) -> dict[str, Any]:
        """What is known of a run before it starts; paths are relative to the outputs."""
        return {
            "kind": kind,
            "method": backbone.method,
            "variant": backbone.variant,
            "backbone": backbone.arch,
            "backbone_name": backbone.name,
            "epochs": backbone.epochs,
            "weights": "random" if backbone.is_random else "given" if backbone.source else "here",
            "seed": seed,
            "task": f"Pretraining, {backbone.method}",
            "task_name": "pretrain",
            "protocol": "",
            "main_metrics": [],
            "config": backbone.config,
            "data": {"name": backbone.data},
            "gpu_hours_estimated": round(backbone.cost.gpu_hours, 2),
            "curves": [str(work.relative_to(self.out))],
            "pictures": [{"path": str(p.relative_to(self.out)), "kind": k} for p, k in pictures],
        }


def _about_task(task: Task, title: str, protocol: str, metrics: Sequence[str], cost: Cost) -> dict[str, Any]:
    return {
        "task": title,
        "task_name": task.name,
        "protocol": protocol,
        "main_metrics": list(metrics),
        "config": task.config,
        "data": {"name": task.data},
        "gpu_hours_estimated": round(cost.gpu_hours, 2),
    }


def _options(options: Sequence[str]) -> tuple[str, ...]:
    return ("--cfg-options", *options) if options else ()
