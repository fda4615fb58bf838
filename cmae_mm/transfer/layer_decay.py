"""One optimizer-wrapper constructor with layer-wise learning-rate decay, for all three libraries."""

from __future__ import annotations

import re
from typing import Any

from mmengine.logging import print_log
from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn

from cmae_mm.errors import UserError

# A parameter of a block, as ViTs (blocks.3., layers.3., blocks3.3.) and Swin (stages.1.blocks.3.) are named.
_BLOCK = re.compile(r"^backbone\.(?:.*\.)?(?:blocks\d?|layers)\.\d+\.")
_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._NormBase)
READINGS = ("faithful", "intended")


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayConstructor(DefaultOptimWrapperConstructor):
    """Scale the learning rate of layer ``id`` by ``rate ** (L + 1 - id)`` (BEiT, arXiv 2106.08254).

    The id comes from ``model.backbone.get_layer_depth(name, prefix="backbone.")``: 0 is the embedding,
    1..L are the blocks, L + 1 is the rest of the model. Parameters with the same scale and weight decay share
    a group: at most 2 (L + 2) groups. Registered in mmengine's root, so mmpretrain, mmdet and mmseg see it.

    ``paramwise_cfg`` takes:

    - ``layer_decay_rate``: the rate; 1 gives every layer the base learning rate.
    - ``no_decay``: what has no weight decay: regular expressions searched in the full name, the word ``ndim1`` for
      parameters with at most one dimension, and the word ``norm`` for those of any normalisation layer. Weight
      decay differs between published recipes, so nothing is exempt unless it is named.
    - ``base_rate``: regular expressions of what keeps the base learning rate, wherever it is placed.
    - ``reading``: where the code behind published numbers does not do what its authors wanted (a name compared
      without its prefix, a norm that the list of norms lacks), ``no_decay`` and ``base_rate`` are dicts with a
      tuple for each reading: ``faithful`` (the default) does what that code did, ``intended`` what was meant.

    Raises:
        UserError: If the names do not fit the backbone, which would give early blocks a learning rate
            hundreds of times too high without a sign.
    """

    def _validate_cfg(self) -> None:
        super()._validate_cfg()
        given = self.paramwise_cfg
        unknown = sorted(set(given) - {"layer_decay_rate", "no_decay", "base_rate", "reading"})
        if unknown or "layer_decay_rate" not in given:
            raise UserError(
                f"optim_wrapper.paramwise_cfg: needs layer_decay_rate and may have no_decay, base_rate and reading, "
                f"but holds {sorted(given)}; correct the config"
            )
        if given.get("reading", "faithful") not in READINGS:
            raise UserError(
                f"optim_wrapper.paramwise_cfg.reading is {given['reading']!r}; choose 'faithful' or 'intended'"
            )
        for option in ("no_decay", "base_rate"):
            rules = given.get(option, ())
            if isinstance(rules, str) or (isinstance(rules, dict) and set(rules) != set(READINGS)):
                raise UserError(
                    f"optim_wrapper.paramwise_cfg.{option}: give a tuple of patterns, or a dict with one tuple for "
                    f"'faithful' and one for 'intended'"
                )
        if self.base_lr is None or self.base_wd is None:
            raise UserError("optim_wrapper.optimizer: lr and weight_decay are needed; add them to the config")

    def _patterns(self, option: str) -> tuple[str, ...]:
        rules = self.paramwise_cfg.get(option, ())
        if isinstance(rules, dict):
            rules = rules[self.paramwise_cfg.get("reading", "faithful")]
        return tuple(rules)

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
        norms = {
            id(p) for m in module.modules() if isinstance(m, _NORMS) for p in m.parameters(recurse=False)
        }
        groups: dict[tuple[float, bool], dict[str, Any]] = {}
        reached_block = False
        for name, param in module.named_parameters():
            if not param.requires_grad:
                continue
            layer, count = depth_of(name, prefix="backbone.")
            if layer == count - 1 and _BLOCK.match(name):
                raise UserError(
                    f"{type(module).__name__}: block parameter {name} is placed after the backbone by "
                    f"get_layer_depth; correct the names or the method"
                )
            reached_block |= 0 < layer < count - 1
            at_base = any(re.search(pattern, name) for pattern in self._patterns("base_rate"))
            scale = 1.0 if at_base else self.paramwise_cfg["layer_decay_rate"] ** (count - 1 - layer)
            decays = not self._is_exempt(name, param, norms)
            group = groups.setdefault((scale, decays), self._new_group(scale, decays))
            group["params"].append(param)
        if not reached_block and getattr(module.backbone, "trainable_blocks", None) != 0:
            raise UserError(
                f"{type(module).__name__}: no trainable parameter belongs to a block of the backbone, "
                f"so layer decay has nothing to scale; drop the constructor or unfreeze the backbone"
            )
        for _, group in sorted(groups.items()):
            params.append(group)
            print_log(
                f"learning rate x {group['lr_scale']:.3g}: {len(group['params'])} tensors, "
                f"lr {group['lr']:.3g}, weight decay {group['weight_decay']:.3g}",
                logger="current",
                level=10,
            )

    def _new_group(self, scale: float, decays: bool) -> dict[str, Any]:
        return {
            "params": [],
            "lr": self.base_lr * scale,
            "weight_decay": self.base_wd if decays else 0.0,
            "lr_scale": scale,
        }

    def _is_exempt(self, name: str, param: nn.Parameter, norms: set[int]) -> bool:
        rules = {"ndim1": param.ndim <= 1, "norm": id(param) in norms}
        return any(
            rules[pattern] if pattern in rules else bool(re.search(pattern, name))
            for pattern in self._patterns("no_decay")
        )
