"""Gradient accumulation: a recipe's batch on fewer GPUs. An iteration stays one step of the optimizer.

mmengine's own ``accumulative_counts`` counts every small batch as an iteration, so that schedules, intervals and
``max_iters`` would have to be multiplied. The loops here take several batches for one iteration instead: 160,000
iterations mean 160,000 steps, whatever is accumulated, and the learning rate of each step is the same.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from mmengine.config import Config
from mmengine.registry import LOOPS
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, IterBasedTrainLoop

from cmae_mm.engine.environment import bare_model
from cmae_mm.engine.loops import ResumableEpochLoop, ResumableIterLoop
from cmae_mm.errors import UserError

_PROCESSES = {"pytorch": "WORLD_SIZE", "slurm": "SLURM_NTASKS", "mpi": "OMPI_COMM_WORLD_SIZE"}


def planned_processes(launcher: str) -> int:
    """Tell how many processes a launcher started, before they have met.

    Args:
        launcher: ``none``, ``pytorch``, ``slurm`` or ``mpi``.

    Returns:
        Their number; 1 if nothing tells.
    """
    return int(os.environ.get(_PROCESSES.get(launcher, ""), 1))


def accumulate(cfg: Config, count: int | Literal["auto"], processes: int) -> str:
    """Let each iteration of a config add up the gradients of several batches.

    Args:
        cfg: Changed in place: the train loop, and what ``auto_scale_lr`` compares with.
        count: Batches of each process in an iteration. ``"auto"`` takes as many as the recipe's batch
            (``auto_scale_lr.base_batch_size``) needs.
        processes: Processes that train.

    Returns:
        The arithmetic in words, for the log.

    Raises:
        UserError: If the recipe's batch cannot be met, or the loop is none of mmengine's.
    """
    size = (cfg.get("train_dataloader") or {}).get("batch_size")
    if not size:
        raise UserError(
            "--accumulate: the config has no train_dataloader.batch_size; set it with --cfg-options"
        )
    scaling = cfg.get("auto_scale_lr") or {}
    base = scaling.get("base_batch_size")
    if count == "auto":
        count = _needed(base, size, processes)
    total = count * size * processes
    if count > 1:
        cfg.train_cfg.type = _accumulating(cfg.train_cfg)
        cfg.train_cfg.accumulate = count
        cfg.train_cfg.pop("by_epoch", None)
        if base:
            scaling["base_batch_size"] = base / count  # it is compared with the batches of one forward pass
    words = _in_words(count, size, processes, total, base, bool(scaling.get("enable")))
    return words + (_about_contrast(cfg, size * processes, total) if count > 1 else "")


def keeps_its_batch(cfg: Config) -> bool:
    """Tell whether a recipe means one batch size whatever the number of processes.

    Those do that name a batch (``auto_scale_lr.base_batch_size``) and do not ask for a learning rate that follows it
    (``auto_scale_lr.enable``): they accumulate by themselves.

    Args:
        cfg: Config of a training run.
    """
    scaling = cfg.get("auto_scale_lr") or {}
    return bool(scaling.get("base_batch_size")) and not scaling.get("enable")


def _about_contrast(cfg: Config, together: int, total: int) -> str:
    """How many images the loss of a contrastive model compares; such models have the field ``grad_cache``."""
    cached = (cfg.get("model") or {}).get("grad_cache")
    if cached is None:
        return ""
    if cached:
        return f". The contrast compares each image with all {total - 1} others (model.grad_cache)"
    return (
        f". The contrast compares each image with {together - 1} others, not {total - 1}: "
        f"--cfg-options model.grad_cache=True compares all, exactly, for one more forward pass"
    )


def _needed(base: int | None, size: int, processes: int) -> int:
    if not base:
        raise UserError(
            "--accumulate: the config names no batch size to keep (auto_scale_lr.base_batch_size); say how many "
            "batches to add up, for example --accumulate 8"
        )
    if base % (size * processes):
        fitting = [str(n) for n in range(1, base + 1) if base % (n * size) == 0]
        advice = f"start {' or '.join(fitting)} processes, or " if fitting else ""
        raise UserError(
            f"--accumulate: the recipe's batch {base} is no multiple of {processes} processes x {size} images; "
            f"{advice}change train_dataloader.batch_size with --cfg-options"
        )
    return base // (size * processes)


def _accumulating(train_cfg: dict[str, Any]) -> type:
    default = EpochBasedTrainLoop if train_cfg.get("by_epoch") else IterBasedTrainLoop
    kind = train_cfg.get("type", default)
    kind = LOOPS.get(kind) if isinstance(kind, str) else kind
    loops = {IterBasedTrainLoop: AccumulatingIterLoop, EpochBasedTrainLoop: AccumulatingEpochLoop}
    if kind in loops.values():
        return kind
    if kind not in loops:
        raise UserError(
            f"--accumulate: works with mmengine's train loops, but train_cfg.type is {getattr(kind, '__name__', kind)}"
        )
    return loops[kind]


def _in_words(count: int, size: int, processes: int, total: int, base: int | None, scales: bool) -> str:
    noun = "process" if processes == 1 else "processes"
    words = f"batch {total} = {processes} {noun} x {size} images x {count} accumulated"
    if base and total != base:
        words += f", not the recipe's {base}"
        words += f": the learning rate is scaled by {total / base:.4g}" if scales else ""
    if count > 1:
        words += (
            f"; an iteration is still one step of the optimizer. What differs: batch norm, and whatever else "
            f"compares images of a batch, sees at most {size * processes} of them at a time"
        )
    return words


class GroupedLoader:
    """A loader whose items are lists of so many batches of another; what is left over in the end is dropped.

    Args:
        loader: A data loader.
        count: Batches in a list.

    Raises:
        UserError: If the loader has fewer batches than that.
    """

    def __init__(self, loader: Any, count: int) -> None:
        self._loader, self.count = loader, count
        if len(loader) < count:
            raise UserError(
                f"--accumulate: {count} batches for one step, but an epoch has only {len(loader)}; "
                f"lower train_dataloader.batch_size or the number; --accumulate 1 is a try with a small batch"
            )

    @property
    def batch_size(self) -> int | None:
        """Samples that an item takes from the sampler."""
        size = self._loader.batch_size
        return None if size is None else size * self.count

    def __len__(self) -> int:
        return len(self._loader) // self.count

    def __iter__(self) -> Iterator[list[Any]]:
        group: list[Any] = []
        for batch in self._loader:
            group.append(batch)
            if len(group) == self.count:
                yield group
                group = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)


class _Accumulates(BaseLoop):
    """What both loops share; mixed into one of mmengine's."""

    accumulate: int
    runner: Any
    dataloader: Any
    dataloader_iterator: Any
    _iter: int
    _max_iters: int

    def __init__(self, runner: Any, dataloader: Any, accumulate: int, **kwargs: Any) -> None:
        super().__init__(runner, dataloader, **kwargs)
        self.accumulate = accumulate
        self.dataloader = GroupedLoader(self.dataloader, accumulate)

    def run(self) -> Any:
        """Let the optimizer step once in ``accumulate`` backward passes; a resumed run starts in step."""
        wrapper = self.runner.optim_wrapper
        wrapper._accumulative_counts = self.accumulate
        wrapper.initialize_count_status(
            self.runner.model, self._iter * self.accumulate, self._max_iters * self.accumulate
        )
        return super().run()

    def _run_group(self, index: int, group: list[Any]) -> None:
        """One iteration: hooks see the images of all batches, and the mean of what they log."""
        data = joined(group)
        self.runner.call_hook("before_train_iter", batch_idx=index, data_batch=data)
        model, wrapper = self.runner.model, self.runner.optim_wrapper
        if getattr(bare_model(self.runner), "grad_cache", False):  # compares images of all batches
            logs = bare_model(self.runner).train_together(model, group, wrapper)
        else:
            logs = [model.train_step(batch, optim_wrapper=wrapper) for batch in group]
        self.runner.call_hook(
            "after_train_iter", batch_idx=index, data_batch=data, outputs=mean_of_logs(logs)
        )


@LOOPS.register_module()
class AccumulatingIterLoop(_Accumulates, ResumableIterLoop):
    """mmengine's loop by iterations, each of several batches.

    Args:
        runner: The runner.
        dataloader: Loader of the batches.
        accumulate: Batches in an iteration.
        **kwargs: See mmengine; everything counts iterations.
    """

    def __init__(self, runner: Any, dataloader: Any, accumulate: int = 1, **kwargs: Any) -> None:
        super().__init__(runner, dataloader, accumulate, **kwargs)
        self.dataloader_iterator = type(self.dataloader_iterator)(self.dataloader)

    def run_iter(self, data_batch: Sequence[Any]) -> None:
        """Train on a list of batches."""
        self._run_group(self._iter, list(data_batch))
        self._iter += 1


@LOOPS.register_module()
class AccumulatingEpochLoop(_Accumulates, ResumableEpochLoop):
    """mmengine's loop by epochs, with several batches in an iteration.

    Args:
        runner: The runner.
        dataloader: Loader of the batches.
        accumulate: Batches in an iteration.
        **kwargs: See mmengine.
    """

    def __init__(self, runner: Any, dataloader: Any, accumulate: int = 1, **kwargs: Any) -> None:
        super().__init__(runner, dataloader, accumulate, **kwargs)
        self._max_iters = self._max_epochs * len(self.dataloader)

    def run_iter(self, idx: int, data_batch: Sequence[Any]) -> None:
        """Train on a list of batches."""
        self._run_group(idx, list(data_batch))
        self._iter += 1


def joined(batches: Sequence[Any]) -> Any:
    """Put batches together as one, for hooks that look at what was trained on.

    Args:
        batches: Dicts of tensors, lists or other values; or lists of samples.

    Returns:
        The same with tensors and lists joined; of other values the first.
    """
    first = batches[0]
    if isinstance(first, Mapping):
        return {key: joined([batch[key] for batch in batches]) for key in first}
    if isinstance(first, torch.Tensor):
        return torch.cat(list(batches)) if first.ndim else first
    if isinstance(first, (list, tuple)):
        return [item for batch in batches for item in batch]
    return first


def mean_of_logs(logs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Average what several train steps log, by name.

    Args:
        logs: Of each step, numbers or tensors; all with the same names.

    Returns:
        Names to means.
    """
    return {key: sum(log[key] for log in logs) / len(logs) for key in logs[0]}
