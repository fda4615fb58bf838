"""Moves the target branch of a self-supervised model after each optimizer step."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from cmae_mm.engine.environment import bare_model
from cmae_mm.errors import UserError


@HOOKS.register_module()
class MomentumUpdateHook(Hook):
    """Calls ``model.momentum_update(progress)`` once for each optimizer step.

    Runs before the checkpoint is written, so that a saved target has seen its last update. With gradient
    accumulation it waits for the step, so that accumulated batches act as one large batch.
    """

    priority = "NORMAL"

    def before_train(self, runner: Any) -> None:
        """Check that the model has a target branch.

        Raises:
            UserError: It has none.
        """
        model = bare_model(runner)
        if not hasattr(model, "momentum_update"):
            raise UserError(
                f"MomentumUpdateHook needs a model with momentum_update(), but model.type is "
                f"{type(model).__name__}; remove the hook from custom_hooks."
            )

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Update the target with the online weights of this step."""
        if runner.optim_wrapper.should_update():
            bare_model(runner).momentum_update(progress=runner.iter / runner.max_iters)
