"""Sums and concatenations over all processes, with the gradient of what all processes make of them.

torch has such functions in ``torch.distributed.nn.functional``, deprecated since 2.13; what is to replace them is
private and differs between versions. These two need nothing but the collectives themselves.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable


class _Total(Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _Total.forward(ctx, gradient)


class _Concatenation(Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        world = dist.get_world_size()
        every = rows.new_empty(world * len(rows), *rows.shape[1:])
        dist.all_gather(list(every.chunk(world)), rows.contiguous())
        return every

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        world = dist.get_world_size()
        if dist.get_backend() != dist.Backend.NCCL:  # gloo has no such collective in older versions
            return _Total.forward(ctx, gradient).chunk(world)[dist.get_rank()]
        parts = list(gradient.contiguous().chunk(world))
        own = torch.empty_like(parts[0])
        dist.reduce_scatter(own, parts)
        return own


def total_of_processes(values: Tensor) -> Tensor:
    """Sum a tensor over all processes.

    Args:
        values: Of the same shape everywhere.

    Returns:
        The sum. Its gradient in a process is the sum of the gradients that the processes have for their copies.
    """
    return _Total.apply(values)


def concatenation_of_processes(rows: Tensor) -> Tensor:
    """Concatenate the rows of all processes, in the order of their ranks.

    Args:
        rows: (N, ...), the same N everywhere.

    Returns:
        (processes x N, ...). Its gradient flows back to the process that a row came from, summed over what all
        processes make of that row.
    """
    return _Concatenation.apply(rows)
