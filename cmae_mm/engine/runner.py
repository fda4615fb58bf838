"""mmengine's runner, with checkpoints that cannot execute code and clear mistakes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from mmengine.device import get_device
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.optim import _ParamScheduler
from mmengine.registry import RUNNERS
from mmengine.runner import Runner
from torch import nn

from cmae_mm.checkpoints.mmengine_loader import make_mmengine_load_safely
from cmae_mm.checkpoints.safe_load import load_checkpoint
from cmae_mm.engine.cpu import fit_to_cpu
from cmae_mm.errors import UserError


@RUNNERS.register_module()
class SuiteRunner(Runner):
    """Runner that reads checkpoints safely and strictly, and runs SyncBN models on the CPU."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        make_mmengine_load_safely()  # parts of a model may load files of their own
        super().__init__(*args, **kwargs)

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

    def load_or_resume(self) -> None:
        """See the base class.

        Raises:
            UserError: If the note of the newest checkpoint is no text.
        """
        try:
            super().load_or_resume()
        except UnicodeDecodeError:
            note = f"{self.work_dir}/last_checkpoint"
            raise UserError(f"{note}: is damaged; name the checkpoint with --resume FILE") from None

    def resume(self, filename: str, *args: Any, **kwargs: Any) -> None:
        """See the base class.

        Raises:
            UserError: If the file is unreadable, belongs to another architecture, or holds no run.
        """
        try:
            super().resume(filename, *args, **kwargs)
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            reason = str(error).strip().splitlines()
            raise UserError(
                f"{filename}: cannot be resumed from ({type(error).__name__}: {reason[0] if reason else 'no reason'}); "
                f"use the config that it was trained with"
            ) from error


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
