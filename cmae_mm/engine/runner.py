"""mmengine's runner, with checkpoints that cannot execute code and clear mistakes."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.model import is_model_wrapper
from mmengine.registry import RUNNERS
from mmengine.runner import Runner
from torch import nn

from cmae_mm.checkpoints.safe_load import load_checkpoint
from cmae_mm.engine.cpu import fit_to_cpu
from cmae_mm.errors import UserError


@RUNNERS.register_module()
class SuiteRunner(Runner):
    """Runner that reads checkpoints safely and strictly, and runs SyncBN models on the CPU."""

    def wrap_model(self, model_wrapper_cfg: dict[str, Any] | None, model: nn.Module) -> nn.Module:
        """See the base class. SyncBN needs a GPU: on the CPU it becomes batch norm per process."""
        if not torch.cuda.is_available():
            model = fit_to_cpu(model)
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
        meta = checkpoint.setdefault("meta", {})
        meta.pop("config", None)  # the base class would execute it
        # Not in the file (PlainCheckpointHook); without it the base class warns of other data.
        loader = getattr(self._train_loop, "dataloader", None)
        meta["dataset_meta"] = getattr(getattr(loader, "dataset", None), "metainfo", None)
        self.call_hook("after_load_checkpoint", checkpoint=checkpoint)
        model = self.model.module if is_model_wrapper(self.model) else self.model
        check_same_model(model, checkpoint.get("state_dict", {}), filename)
        model.load_state_dict(checkpoint["state_dict"])
        self._has_loaded = True
        self.logger.info(f"Load checkpoint from {filename}")
        return checkpoint


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
