"""Text of batch scripts: one stage a job, or several stages of the same size as one job array."""

from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from cmae_mm.benchmark.recipe import ROOT, Slurm
from cmae_mm.benchmark.stages import Stage

LARGEST_ARRAY = 1000
"""Tasks of a job array that every cluster takes: ``MaxArraySize`` is 1001 unless its configuration says otherwise."""

_DISTRIBUTED = ("train", "test")


def is_distributed(stage: Stage) -> bool:
    """Returns: Whether ``srun`` starts a process of the stage for each GPU."""
    return stage.cost.gpus > 1 and stage.program in _DISTRIBUTED


def resources(stage: Stage, words: Slurm) -> list[str]:
    """What a stage asks of the cluster.

    Args:
        stage: To run.
        words: What the recipe says about jobs.

    Returns:
        Options of ``sbatch``; stages with equal ones may be tasks of one array.
    """
    gpus, spread = stage.cost.gpus, is_distributed(stage)
    nodes = max(1, math.ceil(gpus / words.gpus_per_node)) if spread else 1
    options = [
        f"--nodes={nodes}",
        f"--ntasks-per-node={math.ceil(gpus / nodes) if spread else 1}",
        f"--cpus-per-task={words.cpus_per_gpu if gpus else 1}",
    ]
    options += [f"--gres=gpu:{math.ceil(gpus / nodes)}"] if gpus else []
    options += [f"--partition={words.partition}"] if words.partition else []
    options += [f"--account={words.account}"] if words.account else []
    options += [f"--time={math.ceil(words.hours * 60)}"] if words.hours else []
    return [*options, *words.extra]


def script(options: Sequence[str], jobs: Sequence[Path], log: Path, name: str, at_once: int = 0) -> str:
    """The batch script of one stage, or of an array of them.

    Args:
        options: See :func:`resources`.
        jobs: Job files of the runners. Task i of an array runs the i-th.
        log: Where Slurm's own words go; ``%a`` in it is the number of the task.
        name: Name of the job.
        at_once: How many tasks of an array may run at a time; 0: as many as there is room for.

    Returns:
        Text for ``sbatch``.
    """
    several = len(jobs) > 1
    limit = f"%{at_once}" if at_once else ""
    heads = [f"--job-name={name}", f"--output={log}", "--open-mode=append", "--requeue", *options]
    heads += [f"--array=0-{len(jobs) - 1}{limit}"] if several else []
    lines = ["#!/bin/bash", *(f"#SBATCH {head}" for head in heads)]
    lines += [f"cd {shlex.quote(str(ROOT))}", "export PYTHONUNBUFFERED=1"]
    # Jobs that share a node must not meet at one port. Each task of an array has a job number of its own.
    lines += ["export MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))"]
    chosen = shlex.quote(str(jobs[0]))
    if several:
        lines += [f"jobs=({' '.join(shlex.quote(str(job)) for job in jobs)})"]
        chosen = '"${jobs[$SLURM_ARRAY_TASK_ID]}"'
    lines += [f"exec {shlex.quote(sys.executable)} -m cmae_mm.benchmark.runner {chosen}"]
    return "\n".join(lines) + "\n"
