"""mmengine's runner, with checkpoints that cannot execute code, exact resuming and clear mistakes."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any

import torch
from mmengine import dist
from mmengine.device import get_device
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.registry import RUNNERS
from mmengine.runner import Runner
from torch import nn

from cmae_mm.checkpoints.mmengine_loader import make_mmengine_load_safely
from cmae_mm.checkpoints.safe_load import load_checkpoint
from cmae_mm.engine.checkpoint_checks import check_resumable, check_same_model, mapping_in
from cmae_mm.engine.checkpoint_file import fault_of, newest_good
from cmae_mm.engine.checkpoint_hook import last_checkpoint
from cmae_mm.engine.cpu import fit_to_cpu
from cmae_mm.engine.loops import ResumableEpochLoop, resumable_loop
from cmae_mm.engine.lost_peers import translate
from cmae_mm.engine.saving_runner import POSITION, SavingRunner
from cmae_mm.engine.schedules import base_values, replay_schedules
from cmae_mm.engine.sharding import is_split, split_like, split_model, split_optimizer_state
from cmae_mm.engine.signals import leave_signals_to_the_main_process
from cmae_mm.errors import UserError

_MMENGINES_HOOKS = ("runtime_info", "timer", "sampler_seed", "logger", "param_scheduler", "checkpoint")


@RUNNERS.register_module()
class SuiteRunner(SavingRunner):
    """Runner that reads checkpoints safely and strictly, resumes exactly, and runs SyncBN models on the CPU."""

    _resume: bool
    _load_from: str | None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        make_mmengine_load_safely()  # parts of a model may load files of their own
        self._loaded_keys: set[str] = set()
        self._position: dict[str, int] = {}
        super().__init__(*args, **kwargs)
        self._schedules_recipe = copy.deepcopy(self.param_schedulers)  # later replaced by what is built

    def register_default_hooks(self, hooks: dict[str, Any] | None = None) -> None:
        """See the base class; None switches off any hook, not only those that mmengine adds by itself."""
        kept = {name: h for name, h in (hooks or {}).items() if h is not None or name in _MMENGINES_HOOKS}
        super().register_default_hooks(kept)

    def build_train_loop(self, loop: Any) -> Any:
        """See the base class; mmengine's loops become those that resume in mid-epoch."""
        return super().build_train_loop(resumable_loop(loop) if isinstance(loop, dict) else loop)

    def wrap_model(self, model_wrapper_cfg: dict[str, Any] | None, model: nn.Module) -> nn.Module:
        """See the base class. torch's SyncBN needs a GPU: on the CPU it is replaced.

        A model that learns nothing is not wrapped: it has no gradients to average, and torch's wrapper refuses it.
        """
        if not torch.cuda.is_available():
            model = fit_to_cpu(model)
        if not any(p.requires_grad for p in model.parameters()):
            return model.to(get_device())
        if sharding := self.cfg.get("sharding"):
            return split_model(model, torch.device(get_device()), **sharding)
        return super().wrap_model(model_wrapper_cfg, model)

    def _init_model_weights(self) -> None:
        """See the base class; a split model was initialised while it was whole."""
        if not is_split(self.model):
            super()._init_model_weights()

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
        meta = checkpoint["meta"] = dict(mapping_in(checkpoint, "meta", filename))
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
        if is_split(model):
            checkpoint["state_dict"] = split_like(checkpoint["state_dict"], model)
            if self._resume and "optimizer" in checkpoint:
                optimizer = self.optim_wrapper.optimizer
                checkpoint["optimizer"] = split_optimizer_state(checkpoint["optimizer"], optimizer)
        model.load_state_dict(checkpoint["state_dict"])
        self._has_loaded = True
        self.logger.info(f"Load checkpoint from {filename}")
        return checkpoint

    def set_randomness(
        self, seed: int | None, diff_rank_seed: bool = False, deterministic: bool = False
    ) -> None:
        """See the base class; but ``seed`` stays that of the run, the same in all processes.

        With ``diff_rank_seed`` each process seeds its generators (masks, drop path, mixup) with its rank added. The
        order of the images and the draws of a sample come from the run's seed, whoever loads it.
        """
        super().set_randomness(seed, diff_rank_seed, deterministic)
        if diff_rank_seed:
            self._seed -= dist.get_rank()

    @staticmethod
    def build_dataloader(dataloader: Any, seed: int | None = None, diff_rank_seed: bool = False) -> Any:
        """See the base class. Loader processes leave signals to the main process; samplers get the run's seed."""
        loader = Runner.build_dataloader(dataloader, seed)
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
