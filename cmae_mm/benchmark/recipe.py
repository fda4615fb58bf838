"""A benchmark is data: which backbones, which tasks, which seeds.

A recipe is a TOML file. What it names in ``backbones`` and ``tasks`` is looked up in ``configs/benchmark/library``, so
that one pretraining has one name in every table; an entry may also be a table of its own, or a table with ``like``,
which takes an entry of the library and changes some fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
"""Where configs/ and tools/ are."""

RANDOM = "random init"
"""The method of a backbone that nothing was pretrained for."""


@dataclass(frozen=True)
class Cost:
    """What a run is expected to take: an estimate, made before anything starts.

    Attributes:
        gpu_hours: GPUs times hours.
        gpus: How many GPUs the published recipe uses; 0 for a program of the CPU.
        seconds: Rough duration on two CPU cores; only the mini recipes know it.
        basis: Where the figure comes from.
    """

    gpu_hours: float = 0.0
    gpus: int = 0
    seconds: float = 0.0
    basis: str = ""


FREE = Cost()
"""Of a program that takes moments."""


@dataclass(frozen=True)
class Backbone:
    """One row of a table: an encoder that is pretrained here, given as a file, or not pretrained at all.

    Attributes:
        name: Unique short name, used in paths.
        method: Method in tables, as in ``published.toml``; "random init" for one that has neither config nor source.
        arch: Architecture in tables, such as "ViT-B/16".
        variant: Ablation or reading; empty for the method's default.
        epochs: Pretraining epochs; None if unknown or none.
        config: Config that pretrains it; empty if it is given.
        options: ``--cfg-options`` of the pretraining.
        source: Path, address or ``hf://`` reference of given weights.
        import_options: Words for ``cmae-mm import``, such as ``--channel-order rgb``.
        data: Folder of the pretraining images below the data root.
        tasks: Names of the only tasks that it is transferred to; all that fit if empty.
        cost: Of the pretraining.
    """

    name: str
    method: str
    arch: str = ""
    variant: str = ""
    epochs: int | None = None
    config: str = ""
    options: tuple[str, ...] = ()
    source: str = ""
    import_options: tuple[str, ...] = ()
    data: str = "imagenet"
    tasks: tuple[str, ...] = ()
    cost: Cost = FREE

    @property
    def is_random(self) -> bool:
        """Whether the encoder starts from random weights."""
        return not (self.config or self.source)


@dataclass(frozen=True)
class Evaluation:
    """One more evaluation of what a task trained.

    Attributes:
        name: Short name, appended to the task's.
        title: Name for tables.
        protocol: Protocol key.
        main_metrics: Keys of the record that tables show, in order.
        program: Program of ``tools/`` that takes config and checkpoint.
        arguments: Words after them.
        cost: Of the evaluation.
    """

    name: str
    title: str
    protocol: str
    main_metrics: tuple[str, ...]
    program: str = "test"
    arguments: tuple[str, ...] = ()
    cost: Cost = FREE


@dataclass(frozen=True)
class Task:
    """One transfer task.

    Attributes:
        name: Unique short name, used in paths.
        title: Name for tables.
        protocol: Protocol key; numbers of different protocols are never compared.
        config: Config file, relative to the project.
        data: Folder below the data root.
        main_metrics: Keys of the record that tables show, in order.
        program: Program of ``tools/`` that runs it, without ``.py``.
        arguments: Further words for the program.
        options: ``--cfg-options`` of the runs.
        fits: Fields of a backbone (``arch``, ``method``, ``epochs``, ``name``) to the values that it may have; a value
            with ``!`` in front is one that it may not have.
        pictures: Which ``tools/visualize_*.py`` shows its predictions; empty for none.
        evaluations: Further evaluations of its checkpoint.
        seeded: False where no random number plays a part, so that one run serves all seeds.
        cost: Of one run.
    """

    name: str
    title: str
    protocol: str
    config: str
    data: str
    main_metrics: tuple[str, ...]
    program: str = "train"
    arguments: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    fits: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    pictures: str = ""
    evaluations: tuple[Evaluation, ...] = ()
    seeded: bool = True
    cost: Cost = FREE

    def takes(self, backbone: Backbone) -> bool:
        """Returns: Whether a backbone is transferred to this task."""
        wanted = not backbone.tasks or self.name in backbone.tasks
        return wanted and all(_among(getattr(backbone, key), values) for key, values in self.fits.items())


def _among(value: Any, values: tuple[Any, ...]) -> bool:
    allowed = [v for v in values if not str(v).startswith("!")]
    return f"!{value}" not in values and (not allowed or value in allowed)


@dataclass(frozen=True)
class Slurm:
    """What a recipe says about batch jobs; the command line can add words.

    Attributes:
        partition: Partition; the cluster's default if empty.
        account: Account; the user's default if empty.
        gpus_per_node: GPUs of a node.
        cpus_per_gpu: Cores for each GPU.
        hours: Time limit of a job; the partition's if 0. A job that reaches it goes on in a new one.
        at_once: How many tasks of a job array may run at a time; 0: as many as there is room for.
        extra: Further words for ``sbatch``.
    """

    partition: str = ""
    account: str = ""
    gpus_per_node: int = 8
    cpus_per_gpu: int = 8
    hours: float = 0.0
    at_once: int = 0
    extra: tuple[str, ...] = ()


USUAL = Slurm()


@dataclass(frozen=True)
class Recipe:
    """Everything that a benchmark runs.

    Attributes:
        name: The stem of the recipe's file.
        title: Title of the report.
        note: Sentences for the top of the report.
        seeds: Random seeds of the transfer runs.
        pretrain_each_seed: Whether each seed pretrains anew; else the first seed's pretraining serves all.
        data_command: Which data set ``cmae-mm data`` makes; empty if ``data_root`` exists already.
        data_root: Folder of existing data; empty if it is made.
        data_seconds: Rough duration of making the data.
        backbones: In the order of the table.
        tasks: In the order of the table.
        slurm: Words for batch jobs.
    """

    name: str
    title: str
    note: str
    seeds: tuple[int, ...]
    pretrain_each_seed: bool
    data_command: str
    data_root: str
    data_seconds: float
    backbones: tuple[Backbone, ...]
    tasks: tuple[Task, ...]
    slurm: Slurm = USUAL

    def pairs(self) -> list[tuple[Backbone, Task]]:
        """Returns: Which backbone is transferred to which task, in order."""
        return [
            (backbone, task) for backbone in self.backbones for task in self.tasks if task.takes(backbone)
        ]
