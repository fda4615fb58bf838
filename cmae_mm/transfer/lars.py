"""LARS as MoCo v3 and MAE use it for linear probes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from mmengine.registry import OPTIMIZERS
from torch import Tensor
from torch.optim.optimizer import Optimizer


@OPTIMIZERS.register_module(name="ProbeLARS")
class LARS(Optimizer):
    """Momentum SGD whose gradients are scaled to the size of their weights, tensor by tensor.

    For tensors of two or more dimensions ``g <- g + weight_decay * p``, then ``g <- g * trust * |p| / |g|`` (left as it
    is where a norm is 0); tensors of one dimension have neither decay nor scale. Then ``m <- momentum * m + g`` and
    ``p <- p - lr * m``.

    This is not the update of other libraries under the same name: mmpretrain keeps the learning rate inside of the
    momentum and scales biases too, lightly does not scale where nothing is decayed, so that it is SGD in a probe.

    Args:
        params: Parameters or groups.
        lr: Learning rate.
        weight_decay: Of tensors of two or more dimensions.
        momentum: Of the scaled gradients.
        trust: Trust coefficient.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.0,
        weight_decay: float = 0.0,
        momentum: float = 0.9,
        trust: float = 0.001,
    ) -> None:
        super().__init__(params, dict(lr=lr, weight_decay=weight_decay, momentum=momentum, trust=trust))

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Make one step.

        Args:
            closure: Evaluates the model again and returns the loss.

        Returns:
            What the closure returns, or None.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)
        return loss

    def _update(self, parameter: Tensor, group: dict[str, Any]) -> None:
        gradient = parameter.grad
        assert gradient is not None
        if parameter.ndim > 1:
            gradient = gradient.add(parameter, alpha=group["weight_decay"])
            size, steep = parameter.norm(), gradient.norm()
            # On the device: to ask for the norms would wait for it.
            ratio = torch.where((size > 0) & (steep > 0), group["trust"] * size / steep, 1.0)
            gradient = gradient * ratio
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        state["momentum"].mul_(group["momentum"]).add_(gradient)
        parameter.add_(state["momentum"], alpha=-group["lr"])
