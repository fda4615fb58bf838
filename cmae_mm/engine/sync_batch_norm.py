"""Batch norm over all processes on CPUs: torch's own SyncBN needs a GPU."""

from __future__ import annotations

import torch
from mmengine.dist import get_world_size
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from cmae_mm.engine.collectives import total_of_processes


class CPUSyncBatchNorm(_BatchNorm):
    """What ``nn.SyncBatchNorm`` computes, by sums over the processes of a gloo group.

    With one process, and in evaluation mode, it is plain batch norm. Processes may hold different numbers of images.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected at least 2 dimensions, got {input.dim()}")

    def forward(self, input: Tensor) -> Tensor:
        """Normalise (N, C, ...) with the mean and variance of all processes' batches."""
        self._check_input_dim(input)
        if not self.training or get_world_size() == 1:
            return super().forward(input)
        dims = [d for d in range(input.dim()) if d != 1]
        shape = [1, -1] + [1] * (input.dim() - 2)
        own = input.new_tensor([input.numel() / input.shape[1]])
        sums = total_of_processes(torch.cat([input.sum(dims), own]))
        count = sums[-1].detach()
        mean = sums[:-1] / count
        centered = input - mean.view(shape)
        # About the common mean, not as a difference of squares, which would cancel.
        variance = total_of_processes(centered.square().sum(dims)) / count
        self._follow(mean.detach(), (variance * count / (count - 1)).detach())
        out = centered * (variance + self.eps).rsqrt().view(shape)
        return out if self.weight is None else out * self.weight.view(shape) + self.bias.view(shape)

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics, as batch norm does; ``variance`` is the unbiased one."""
        if not self.track_running_stats:
            return
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        weight = 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, weight)
        self.running_var.lerp_(variance, weight)


def sync_on_cpu(model: nn.Module) -> nn.Module:
    """Replace torch's SyncBN layers, which need a GPU; parameters, buffers and state-dict keys stay.

    Args:
        model: Changed in place, unless it is such a layer itself.

    Returns:
        The model.
    """
    if isinstance(model, nn.SyncBatchNorm):
        layer = CPUSyncBatchNorm(
            model.num_features, model.eps, model.momentum, model.affine, model.track_running_stats
        )
        layer.load_state_dict(model.state_dict())
        for name, parameter in model.named_parameters():
            setattr(layer, name, parameter)  # an optimizer may hold it already
        return layer.train(model.training)
    for name, child in model.named_children():
        setattr(model, name, sync_on_cpu(child))
    return model
