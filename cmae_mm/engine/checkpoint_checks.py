"""Whether a checkpoint fits: to the model, and to a run that goes on from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from mmengine.optim import _ParamScheduler
from torch import nn

from cmae_mm.errors import UserError


def check_resumable(checkpoint: Mapping[str, Any], where: str) -> None:
    """Make sure that the state of a run is plain: counters, options of the optimizer, states of schedules.

    Args:
        checkpoint: What the file holds.
        where: File name for the message.

    Raises:
        UserError: If something is missing or of another kind.
    """
    meta = mapping_in(checkpoint, "meta", where)
    faults = [f"meta.{key}" for key in ("epoch", "iter") if type(meta.get(key)) is not int or meta[key] < 0]
    faults += ["message_hub"] * (not isinstance(checkpoint.get("message_hub"), Mapping))
    groups = mapping_in(checkpoint, "optimizer", where).get("param_groups", [])
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


def mapping_in(checkpoint: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    """Take a part of a checkpoint that must be a dictionary.

    Args:
        checkpoint: What the file holds.
        key: Name of the part; an empty one if it is missing.
        where: File name for the message.

    Raises:
        UserError: It is something else.
    """
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
