"""The optimizer of pretraining: mmengine's rules for parameters, few groups."""

from __future__ import annotations

import logging
from typing import Any

from mmengine.logging import MMLogger
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class GroupedOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Put parameters with equal options into one group.

    mmengine makes one group for each parameter (293 for CMAE ViT-B), so that AdamW updates one tensor
    at a time. Merged, there are as many groups as different options (with and without weight decay),
    and one update covers each. The update itself is the same. Frozen parameters are left out.
    """

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Build the optimizer; log one line for each group instead of several for each parameter."""
        logger = MMLogger.get_current_instance()
        level = logger.level
        logger.setLevel(logging.ERROR)
        try:
            wrapper = super().__call__(model)
        finally:
            logger.setLevel(level)
        for group in wrapper.optimizer.param_groups:  # `wrapper.param_groups` also lists the base rate
            count = sum(parameter.numel() for parameter in group["params"])
            options = f"lr {group['lr']:g}, weight decay {group.get('weight_decay', 0):g}"
            logger.info(f"optimizer: {len(group['params'])} tensors, {count:,} values: {options}")
        return wrapper

    def add_params(self, params: list[dict[str, Any]], module: nn.Module, **kwargs: Any) -> None:
        """Collect groups recursively; merge them once, at the top.

        Args:
            params: Groups, extended in place.
            module: Module whose parameters are added.
            **kwargs: ``prefix`` and ``is_dcn_module`` of the recursion.
        """
        super().add_params(params, module, **kwargs)
        if kwargs.get("prefix"):
            return
        merged: dict[tuple, dict[str, Any]] = {}
        # Spelled out, a default is no option of its own.
        defaults = {"lr": self.base_lr, "weight_decay": self.base_wd}
        known = {key: value for key, value in defaults.items() if value is not None}
        for group in params:
            options = known | {k: v for k, v in group.items() if k not in ("params", "decay_mult")}
            home = merged.setdefault(tuple(sorted(options.items())), {**options, "params": []})
            home["params"] += group["params"]
        params[:] = merged.values()
