"""A model that is split over the processes (FSDP2), for encoders that are too large for one GPU with their optimizer.

Weights, gradients and the optimizer's state are cut into one part a process; a block's weights are put together just
before it computes. The class of the model, its parameter names and what is saved stay those of an unsplit run: a
checkpoint can be written by one and read by the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from mmengine.dist import broadcast, get_world_size
from mmengine.model.base_module import ModuleList
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils.checkpoint import checkpoint

from cmae_mm.errors import UserError


def split_model(model: nn.Module, device: torch.device, recompute: bool = False) -> nn.Module:
    """Initialise a model, make it equal in all processes, and split it.

    Args:
        model: Changed in place: each repeated block becomes a unit of its own, the rest is one more.
        device: Where it computes.
        recompute: Keep only the inputs of blocks for the backward pass, and compute the blocks again.

    Returns:
        The model, an ``FSDPModule``.

    Raises:
        UserError: There is one process only, or the model needs whole parameters.
    """
    if get_world_size() == 1:
        raise UserError(
            "--shard: one process has nothing to split with; start several with tools/dist_train.sh"
        )
    if getattr(model, "grad_cache", False):
        raise UserError(
            "--shard: model.grad_cache needs whole gradients of the projector; switch one of the two off"
        )
    initialise = getattr(model, "init_weights", None)
    if initialise is not None:
        initialise()
    model.to(device)
    for tensor in [*model.parameters(), *model.buffers()]:
        broadcast(tensor.data, src=0)
    mesh = init_device_mesh(device.type, (get_world_size(),))
    for block in repeated_blocks(model):
        if recompute:
            _recompute(block)
        fully_shard(block, mesh=mesh)
    # By default the rest would stay whole after a forward pass, and whoever lists parameters then would find others.
    fully_shard(model, mesh=mesh, reshard_after_forward=True)
    _settle(model)
    return model


def repeated_blocks(model: nn.Module) -> list[nn.Module]:
    """Find what a network repeats: the members of lists of two or more modules of one class that are no single layers.

    Args:
        model: Any model.

    Returns:
        The blocks, in order; none lies inside another.
    """
    found: list[nn.Module] = []
    inside: set[int] = set()
    for module in model.modules():
        if id(module) in inside or not isinstance(module, (nn.ModuleList, nn.Sequential, ModuleList)):
            continue
        members = list(module)
        if len({type(m) for m in members}) == 1 and all(len(list(m.children())) > 1 for m in members):
            found += members
            inside |= {id(part) for member in members for part in member.modules()}
    return found


def _recompute(block: nn.Module) -> None:
    block.forward = partial(checkpoint, block.forward, use_reentrant=False)  # type: ignore[method-assign]


def _settle(model: nn.Module) -> None:
    """Run through an empty forward pass: what is called first is taken for the root, and hooks call blocks alone."""
    model.forward = lambda: None  # type: ignore[method-assign]
    with torch.no_grad():
        model()
    del model.forward


def is_split(model: nn.Module) -> bool:
    """Returns: Whether the model is split over processes.

    Args:
        model: Any model.
    """
    return isinstance(model, FSDPModule)


def own_part(tensor: Tensor) -> Tensor:
    """The part of a tensor that this process holds: all of it if it is not split. Without gradient.

    Args:
        tensor: A parameter or buffer.
    """
    with torch.no_grad():
        return tensor.to_local() if isinstance(tensor, DTensor) else tensor


@contextmanager
def callable_in_parts(model: nn.Module) -> Iterator[None]:
    """Let methods of a split model be called, not only the model itself: what belongs to no block is put together.

    All processes must enter it.

    Args:
        model: Any model; one that is not split needs nothing.
    """
    if not isinstance(model, FSDPModule):
        yield
        return
    model.unshard()
    try:
        yield
    finally:
        model.reshard()


def whole(state: Any) -> Any:
    """Put split tensors together, on the CPU. All processes must call it with the same structure.

    Args:
        state: Tensors in dicts, lists and tuples; other values stay.
    """
    if isinstance(state, DTensor):
        return state.full_tensor().cpu()
    if isinstance(state, dict):
        return type(state)((key, whole(value)) for key, value in state.items())
    if type(state) in (list, tuple):
        return type(state)(whole(value) for value in state)
    return state


def split_like(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Split the tensors of a state dict as those of a model are.

    Args:
        state: Whole tensors under the names of the model's.
        model: The model.
    """
    own = model.state_dict()
    return {name: _split(value, own[name]) for name, value in state.items()}


def split_optimizer_state(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Split the state of an optimizer as its parameters are.

    Args:
        state: Of ``state_dict()``, with whole tensors.
        optimizer: The optimizer that shall load it.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    parts = {
        index: {key: _split_if_alike(value, parameters[index]) for key, value in entry.items()}
        for index, entry in state["state"].items()
    }
    return {**state, "state": parts}


def _split_if_alike(value: Any, parameter: Tensor) -> Any:
    alike = isinstance(value, Tensor) and value.shape == parameter.shape and value.dim() > 0
    return _split(value, parameter) if alike else value  # counters of steps are whole everywhere


def _split(value: Tensor, like: Tensor) -> Tensor:
    if not isinstance(like, DTensor):
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)
