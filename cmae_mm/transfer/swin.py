"""Swin transformers of the libraries, started from a backbone file."""

from __future__ import annotations

import math
from typing import Any

from mmengine.logging import print_log

from cmae_mm.checkpoints import load_backbone
from cmae_mm.checkpoints.input_fold import fold_input
from cmae_mm.checkpoints.resize import resize_rel_pos_table
from cmae_mm.checkpoints.targets.parts import Tensors
from cmae_mm.checkpoints.targets.swin import swin_to_mm
from cmae_mm.errors import UserError


class StartsFromSwinFile:
    """Mixed into mmpretrain's and mmseg's ``SwinTransformer``, which have the same names.

    Their own loaders take what fits from a file and leave out the rest without a word.

    Args:
        backbone_file: Backbone file of a Swin; None starts from random weights.
        **kwargs: Arguments of the library's class.
    """

    def __init__(self, backbone_file: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.backbone_file = backbone_file

    def init_weights(self) -> None:
        """Initialise, then load the backbone file; norms of the stages before the last are new, tables are resized.

        Raises:
            UserError: If the file holds another architecture.
        """
        super().init_weights()  # type: ignore[misc]
        if self.backbone_file is None:
            return
        state, header = load_backbone(self.backbone_file)
        if header.kind != "swin":
            raise UserError(
                f"{self.backbone_file}: holds a {header.kind} encoder, the config a Swin; use a recipe of its kind"
            )
        dense = len(self.out_indices) > 1  # type: ignore[attr-defined]
        weights, resized = self._fitted(swin_to_mm(fold_input(state, header), header, dense=dense))
        own = self.state_dict()  # type: ignore[attr-defined]
        differing = sorted(
            key
            for key in own.keys() | weights.keys()
            if key not in own or key not in weights or own[key].shape != weights[key].shape
        )
        if differing:
            raise UserError(
                f"{self.backbone_file}: does not fit the model, {len(differing)} tensors differ, for example "
                f"{differing[0]}; use the config of the same architecture"
            )
        self.load_state_dict(weights)  # type: ignore[attr-defined]
        note = f", {resized} tables of relative positions resized" if resized else ""
        print_log(
            f"backbone file {self.backbone_file}: all {len(state)} encoder tensors loaded{note}",
            logger="current",
        )

    def _fitted(self, weights: Tensors) -> tuple[Tensors, int]:
        """Weights with tables for the windows of this model, and the number of tables that were resized."""
        own, fitted, resized = self.state_dict(), dict(weights), 0  # type: ignore[attr-defined]
        for key in [k for k in weights if k in own and own[k].shape != weights[k].shape]:
            if key.endswith("relative_position_index"):
                fitted[key] = own[key]
            elif key.endswith("relative_position_bias_table"):
                old, new = ((math.isqrt(len(t)) + 1) // 2 for t in (weights[key], own[key]))
                fitted[key] = resize_rel_pos_table(weights[key], (old, old), (new, new), extra_rows=0)
                resized += 1
        return fitted, resized
