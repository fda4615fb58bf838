"""mmengine's runner: checkpoints that hold all of a run and cannot execute code, exact resuming, clear mistakes."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import mmengine
import torch
from mmengine import dist
from mmengine.device import get_device
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.optim import _ParamScheduler
from mmengine.registry import RUNNERS
from mmengine.runner import Runner
from torch import nn

from cmae_mm.checkpoints.mmengine_loader import make_mmengine_load_safely
from cmae_mm.checkpoints.safe_load import load_checkpoint
from cmae_mm.engine.checkpoint_file import fault_of, newest_good
from cmae_mm.engine.checkpoint_hook import last_checkpoint
from cmae_mm.engine.checkpoint_writer import CheckpointWriter, snapshot
from cmae_mm.engine.cpu import fit_to_cpu
from cmae_mm.engine.environment import bare_model
from cmae_mm.engine.finite_hook import EXIT_CODE
from cmae_mm.engine.loops import ResumableEpochLoop, resumable_loop
from cmae_mm.engine.lost_peers import translate
from cmae_mm.engine.random_states import STATES, gather_random_states
from cmae_mm.engine.schedules import base_values, replay_schedules, states_of_schedules
from cmae_mm.engine.signals import leave_signals_to_the_main_process
from cmae_mm.errors import UserError

POSITION = "position"  # in a checkpoint: iterations done of the epoch, and how many it has


@RUNNERS.register_module()
class SuiteRunner(Runner):
    """Runner that reads checkpoints safely and strictly, and runs SyncBN models on the CPU."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        make_mmengine_load_safely()  # parts of a model may load files of their own
        self.writer = CheckpointWriter()
        self._config_text = ""
        self._loaded_keys: set[str] = set()
        self._position: dict[str, int] = {}
        super().__init__(*args, **kwargs)
        self._schedules_recipe = copy.deepcopy(
            self.param_schedulers
        )  # training replaces it by what it builds

    def build_train_loop(self, loop: Any) -> Any:
        """See the base class; mmengine's loops become those that resume in mid-epoch."""
        return super().build_train_loop(resumable_loop(loop) if isinstance(loop, dict) else loop)

    def wrap_model(self, model_wrapper_cfg: dict[str, Any] | None, model: nn.Module) -> nn.Module:
        """See the base class. SyncBN needs a GPU: on the CPU it becomes batch norm per process.

        A model that learns nothing is not wrapped: it has no gradients to average, and torch's wrapper refuses it.
        """
        if not torch.cuda.is_available():
            model = fit_to_cpu(model)
        if not any(p.requires_grad for p in model.parameters()):
            return model.to(get_device())
        return super().wrap_model(model_wrapper_cfg, model)

    def load_checkpoint(
        self,
        filename: str,
        map_location: Any = "cpu",
        strict: bool = True,
        revise_keys: list[tuple[str, str]] | None = None,
    ) -> dict[str, Any]:
        """Load a whole model; every key must match.

        Args:
            filename: Checkpoint of a run of this suite.
            map_location: Unused: tensors are read to the CPU and copied into the model.
            strict: Unused: loading is always strict.
            revise_keys: Unused: checkpoints of this suite need no renaming.

        Returns:
            The checkpoint's dictionary.

        Raises:
            UserError: If the file is unreadable or belongs to another architecture.
        """
        checkpoint = load_checkpoint(filename)
        meta = checkpoint["meta"] = dict(_mapping(checkpoint, "meta", filename))
        meta.pop("config", None)  # the base class would execute it
        if self._resume:
            check_resumable(checkpoint, filename)
            self._loaded_keys, self._position = set(checkpoint), dict(checkpoint.get(POSITION) or {})
        # Not in the file (PlainCheckpointHook); without it the base class warns of other data.
        loader = getattr(self._train_loop, "dataloader", None)
        meta["dataset_meta"] = getattr(getattr(loader, "dataset", None), "metainfo", None)
        self.call_hook("after_load_checkpoint", checkpoint=checkpoint)
        model = self.model.module if is_model_wrapper(self.model) else self.model
        model = model.module if isinstance(model, BaseTTAModel) else model
        check_same_model(model, checkpoint.get("state_dict", {}), filename)
        model.load_state_dict(checkpoint["state_dict"])
        self._has_loaded = True
        self.logger.info(f"Load checkpoint from {filename}")
        return checkpoint

    @staticmethod
    def build_dataloader(*args: Any, **kwargs: Any) -> Any:
        """See the base class. Loader processes leave signals to the main process."""
        loader = Runner.build_dataloader(*args, **kwargs)
        loader.worker_init_fn = partial(leave_signals_to_the_main_process, init=loader.worker_init_fn)
        return loader

    def train(self) -> nn.Module:
        """See the base class.

        Raises:
            UserError: This process no longer hears from another one.
        """
        try:
            return super().train()
        except RuntimeError as error:
            lost = translate(error, self)
            if lost is None:
                raise
            raise lost from error
        finally:
            for hook in self.hooks:
                if hasattr(hook, "close"):
                    hook.close()

    def load_or_resume(self) -> None:
        """See the base class; without a named checkpoint a run goes on from the newest one whose hash fits.

        Raises:
            UserError: No checkpoint is whole, or the named one is not.
        """
        if self._resume and not self._has_loaded:
            named = [str(self._load_from) if self._load_from else None]
            complaint = [""]
            if self.rank == 0:
                try:
                    named = [self._good_checkpoint(named[0])]
                except UserError as error:
                    complaint = [str(error)]
            self.stop_together(complaint)
            dist.broadcast_object_list(named)
            self._load_from = named[0]
            self._resume = named[0] is not None
        super().load_or_resume()

    def _good_checkpoint(self, named: str | None) -> str | None:
        if named is not None:
            fault = fault_of(Path(named)) if Path(named).is_file() else None
            if fault:
                raise UserError(f"{named}: cannot be resumed from, {fault}; give another, or --resume alone")
            return named
        found, skipped = newest_good(Path(self.work_dir), last_checkpoint(self.work_dir))
        for sentence in skipped:
            self.logger.warning(sentence)
        self.logger.info(f"resume from {found}" if found else "nothing to resume from: the run starts anew")
        return str(found) if found else None

    def stop_together(self, complaint: list[str]) -> None:
        """End all processes if the first one has a complaint; only that one says it.

        Args:
            complaint: One sentence, or an empty one.

        Raises:
            UserError: The sentence.
        """
        dist.broadcast_object_list(complaint)
        if complaint[0]:
            if self.rank == 0:
                raise UserError(complaint[0])
            raise SystemExit(EXIT_CODE)

    def resume(self, filename: str, *args: Any, **kwargs: Any) -> None:
        """See the base class.

        Raises:
            UserError: If the file is unreadable, belongs to another architecture, or holds no run.
        """
        bases = base_values(self.optim_wrapper)
        try:
            super().resume(filename, *args, **kwargs)
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            reason = str(error).strip().splitlines()
            raise UserError(
                f"{filename}: cannot be resumed from ({type(error).__name__}: {reason[0] if reason else 'no reason'}); "
                f"use the config that it was trained with"
            ) from error
        if "optimizer" not in self._loaded_keys:
            raise UserError(
                f"{filename}: holds no state of the optimizer (save_optimizer=False), so no run can go on from it; "
                "start a new run from its weights with --cfg-options load_from=FILE"
            )
        if isinstance(self.train_loop, ResumableEpochLoop):
            self._enter_epoch(self.train_loop, bases)

    def _enter_epoch(self, loop: ResumableEpochLoop, bases: list[dict[str, float]]) -> None:
        """Go on in mid-epoch, with the images that were still to come."""
        was = self._position
        length, done = len(loop.dataloader), was.get("done", 0)
        changed = bool(was) and was["iterations"] != length
        if changed:
            done = round(done * length / was["iterations"])
            self.logger.warning(
                f"an epoch has {length} iterations here and had {was['iterations']} before (other processes or "
                f"batch sizes): the run goes on at iteration {done} of epoch {loop.epoch + 1}, and schedules as if it "
                "had always been so"
            )
        loop.start_at(loop.epoch, done)
        if changed and self._schedules_recipe is not None:
            replay_schedules(self, self._schedules_recipe, bases, loop.iter, length)

    def save_checkpoint(
        self,
        out_dir: str,
        filename: str,
        file_client_args: dict[str, Any] | None = None,
        save_optimizer: bool = True,
        save_param_scheduler: bool = True,
        meta: dict[str, Any] | None = None,
        by_epoch: bool = True,
        backend_args: dict[str, Any] | None = None,
        then: Callable[[], None] | None = None,
    ) -> None:
        """Save the whole run. All processes must call it; the first one writes.

        Args:
            out_dir: Folder.
            filename: Name in it.
            file_client_args: Unused: checkpoints are written to local or mounted disks.
            save_optimizer: Save what is needed to go on, beside the weights.
            save_param_scheduler: Save the schedules.
            meta: ``epoch`` and ``iter`` that are done; see mmengine where they are missing.
            by_epoch: See mmengine.
            backend_args: Unused.
            then: Write in the background, and call this (in a thread) when the file is whole. If None, the file
                is whole when this returns.

        Raises:
            UserError: The disk has no room, an earlier checkpoint could not be written, or weights are not finite
                (process 0; the others exit quietly).
        """
        meta = dict(meta or {})
        meta.setdefault("epoch", self.epoch + int(by_epoch))
        meta.setdefault("iter", self.iter + int(not by_epoch))
        states = gather_random_states() if save_optimizer else []
        complaint = [""]
        if self.rank == 0:
            try:
                self._write(
                    Path(out_dir) / filename, meta, save_optimizer, save_param_scheduler, states, then
                )
            except UserError as error:
                complaint = [str(error)]
        self.stop_together(complaint)

    def _write(
        self,
        path: Path,
        meta: dict[str, Any],
        save_optimizer: bool,
        save_param_scheduler: bool,
        states: list[dict[str, Any]],
        then: Callable[[], None] | None,
    ) -> None:
        self.writer.wait()
        checkpoint: dict[str, Any] = {
            "meta": {**meta, **self._about()},
            "state_dict": bare_model(self).state_dict(),
            "message_hub": self.message_hub.state_dict(),
        }
        if save_optimizer:
            checkpoint["optimizer"] = self.optim_wrapper.state_dict()
            checkpoint[STATES] = states
            loop = self.train_loop
            if isinstance(loop, ResumableEpochLoop):
                done = loop.done_in_epoch(meta["epoch"], meta["iter"])
                checkpoint[POSITION] = {"done": done, "iterations": len(loop.dataloader)}
        if save_param_scheduler and self.param_schedulers is not None:
            checkpoint["param_schedulers"] = states_of_schedules(self.param_schedulers)
        self.call_hook("before_save_checkpoint", checkpoint=checkpoint)
        self.writer.start(snapshot(checkpoint), path, then)
        if then is None:
            self.writer.wait()

    def _about(self) -> dict[str, Any]:
        """What stands in each checkpoint of a run; the config's text takes a second to make."""
        if not self._config_text:
            self._config_text = self.cfg.pretty_text
        return {
            "cfg": self._config_text,
            "seed": self.seed,
            "experiment_name": self.experiment_name,
            "time": time.strftime("%Y%m%d_%H%M%S", time.localtime()),
            "mmengine_version": mmengine.__version__,
        }


def check_resumable(checkpoint: Mapping[str, Any], where: str) -> None:
    """Make sure that the state of a run is plain: counters, options of the optimizer, states of schedules.

    Args:
        checkpoint: What the file holds.
        where: File name for the message.

    Raises:
        UserError: If something is missing or of another kind.
    """
    meta = _mapping(checkpoint, "meta", where)
    faults = [f"meta.{key}" for key in ("epoch", "iter") if type(meta.get(key)) is not int or meta[key] < 0]
    faults += ["message_hub"] * (not isinstance(checkpoint.get("message_hub"), Mapping))
    groups = _mapping(checkpoint, "optimizer", where).get("param_groups", [])
    options = [v for group in groups if isinstance(group, Mapping) for k, v in group.items() if k != "params"]
    faults += ["optimizer.param_groups"] * (not all(map(_is_plain, options)))
    states = checkpoint.get("param_schedulers", [])
    lists = states.values() if isinstance(states, Mapping) else [states]
    keys = [key for some in lists for state in some for key in state]
    faults += ["param_schedulers"] * any(callable(getattr(_ParamScheduler, str(key), None)) for key in keys)
    if faults:
        raise UserError(
            f"{where}: cannot be resumed from, {', '.join(faults)} is missing or not what a run writes; give the "
            f"epoch_N.pth of a training run"
        )


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(isinstance(item, (bool, int, float, str)) for item in value)
    return value is None or isinstance(value, (bool, int, float, str, torch.Tensor))


def _mapping(checkpoint: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    value = checkpoint.get(key, {})
    if not isinstance(value, Mapping):
        raise UserError(
            f"{where}: its {key} is a {type(value).__name__}, not a dictionary; it may be damaged"
        )
    return value


def check_same_model(model: nn.Module, state: dict[str, torch.Tensor], where: str) -> None:
    """Refuse weights of another architecture.

    Args:
        model: The model that the config builds.
        state: State dict of the checkpoint.
        where: File name for the message.

    Raises:
        UserError: If a key is missing or unexpected, or a shape differs.
    """
    own = model.state_dict()
    tensors = isinstance(state, Mapping) and all(
        isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in state.items()
    )
    if not tensors:
        raise UserError(f"{where}: its state_dict holds something else than tensors; it may be damaged")
    missing, unexpected = sorted(set(own) - set(state)), sorted(set(state) - set(own))
    shapes = [k for k in own if k in state and own[k].shape != state[k].shape]
    if not (missing or unexpected or shapes):
        return
    example = (
        f"{shapes[0]} is {tuple(state[shapes[0]].shape)} in the file and {tuple(own[shapes[0]].shape)} in the model"
        if shapes
        else f"for example {(missing or unexpected)[0]}"
    )
    raise UserError(
        f"{where}: the checkpoint belongs to another architecture: {len(shapes)} shapes differ, {len(missing)} keys "
        f"missing, {len(unexpected)} unexpected; {example}; use the config that it was trained with"
    )
