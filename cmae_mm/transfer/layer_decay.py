"""One optimizer-wrapper constructor with layer-wise learning-rate decay, for all three libraries."""

from __future__ import annotations

import re
from typing import Any

from mmengine.logging import print_log
from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn

from cmae_mm.errors import UserError

_BLOCK = re.compile(r"^backbone\.(?:.*\.)?(?:blocks|layers)\.\d+\.")


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayConstructor(DefaultOptimWrapperConstructor):
    """Scale the learning rate of layer ``id`` by ``rate ** (L + 1 - id)`` (BEiT, arXiv 2106.08254).

    The id comes from ``model.backbone.get_layer_depth(name, prefix="backbone.")``: 0 is the embedding,
    1..L are the blocks, L + 1 is the rest of the model. Parameters with the same id and weight decay share
    a group: at most 2 (L + 2) groups. Registered in mmengine's root, so mmpretrain, mmdet and mmseg see it.

    ``paramwise_cfg`` takes:

    - ``layer_decay_rate``: the rate; 1 gives every layer the base learning rate.
    - ``no_decay``: what has no weight decay: regular expressions searched in the full name, and the word
      ``ndim1`` for parameters with at most one dimension. Weight decay differs between published
      recipes, so nothing is exempt unless it is named.

    Raises:
        UserError: If the names do not fit the backbone, which would give early blocks a learning rate
            hundreds of times too high without a sign.
    """

    def _validate_cfg(self) -> None:
        super()._validate_cfg()
        unknown = sorted(set(self.paramwise_cfg) - {"layer_decay_rate", "no_decay"})
        if unknown or "layer_decay_rate" not in self.paramwise_cfg:
            raise UserError(
                f"optim_wrapper.paramwise_cfg: needs layer_decay_rate and may have no_decay, "
                f"but holds {sorted(self.paramwise_cfg)}; correct the config"
            )
        if self.base_lr is None or self.base_wd is None:
            raise UserError("optim_wrapper.optimizer: lr and weight_decay are needed; add them to the config")

    def add_params(
        self, params: list[dict[str, Any]], module: nn.Module, prefix: str = "", **kwargs: Any
    ) -> None:
        """Append the parameter groups of the whole model.

        Args:
            params: The list to extend.
            module: The model; has a ``backbone`` with ``get_layer_depth``.
            prefix: Unused; the base class recurses with it, this method does not.
            **kwargs: Unused, as above.

        Raises:
            UserError: See the class.
        """
        del prefix, kwargs
        depth_of = getattr(getattr(module, "backbone", None), "get_layer_depth", None)
        if depth_of is None:
            raise UserError(
                f"{type(module).__name__}: its backbone has no get_layer_depth, so layer decay cannot be applied; "
                f"use a ViT of this package or of mmpretrain"
            )
        groups: dict[tuple[int, bool], dict[str, Any]] = {}
        for name, param in module.named_parameters():
            if not param.requires_grad:
                continue
            layer, count = depth_of(name, prefix="backbone.")
            if layer == count - 1 and _BLOCK.match(name):
                raise UserError(
                    f"{type(module).__name__}: block parameter {name} is placed after the backbone by "
                    f"get_layer_depth; correct the names or the method"
                )
            decays = not self._is_exempt(name, param)
            group = groups.setdefault((layer, decays), self._new_group(layer, count, decays))
            group["params"].append(param)
        if not any(0 < layer < count - 1 for layer, _ in groups):
            raise UserError(
                f"{type(module).__name__}: no trainable parameter belongs to a block of the backbone, "
                f"so layer decay has nothing to scale; drop the constructor or unfreeze the backbone"
            )
        for _, group in sorted(groups.items()):
            params.append(group)
            print_log(
                f"layer {group['layer_id']}: {len(group['params'])} tensors, "
                f"lr {group['lr']:.3g}, weight decay {group['weight_decay']:.3g}",
                logger="current",
                level=10,
            )

    def _new_group(self, layer: int, count: int, decays: bool) -> dict[str, Any]:
        scale = self.paramwise_cfg["layer_decay_rate"] ** (count - 1 - layer)
        weight_decay = self.base_wd if decays else 0.0
        return {
            "params": [],
            "lr": self.base_lr * scale,
            "weight_decay": weight_decay,
            "layer_id": layer,
            "lr_scale": scale,
        }

    def _is_exempt(self, name: str, param: nn.Parameter) -> bool:
        return any(
            param.ndim <= 1 if pattern == "ndim1" else re.search(pattern, name)
            for pattern in self.paramwise_cfg.get("no_decay", ())
        )
