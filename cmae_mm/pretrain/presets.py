"""The two readings of CMAE: what the paper says, and what the released code does.

Keys are config fields in dotted form, so that ``Config.merge_from_dict`` (or ``--cfg-options``)
takes them. The main recipes hold the `released` values, written out; a test compares them with this table.
"""

from __future__ import annotations

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    "released": {
        "model.data_preprocessor.channel_order": "bgr",  # read as RGB, swapped before normalising
        "model.data_preprocessor.max_shift": 31,  # 0..31, both ends drawn
        "model.data_preprocessor.flip": "before",  # the master is flipped, then windows are cut
        "model.backbone.mask_kind": "block",
        "model.backbone.mask_ratio": 0.65,
        "model.target_norm": False,  # features of the last block, without LayerNorm
        "model.head.contrastive_scale": "2tau",  # as MoCo v3: 2 * 0.07 * cross-entropy
        "optim_wrapper.paramwise_cfg.flat_decay_mult": 1.0,  # batch-norm weights are decayed
    },
    "paper": {
        "model.data_preprocessor.channel_order": "rgb",
        "model.data_preprocessor.max_shift": 30,  # [0, 31)
        "model.data_preprocessor.flip": "after",  # the authors' issue 7: shift, then flip
        "model.backbone.mask_kind": "random",
        "model.backbone.mask_ratio": 0.75,
        "model.target_norm": True,  # "encoder output", with its last LayerNorm
        "model.head.contrastive_scale": "1",
        "optim_wrapper.paramwise_cfg.flat_decay_mult": 0.0,  # as MAE: no one-dimensional parameter is decayed
    },
}
