"""CMAE ablation. Single patches are hidden, 75 %, as in MAE: int(196 * 0.25) = 49 stay visible."""

from mmengine.config import read_base

with read_base():
    from ...._base_.recipes.cmae_vit_b_p16 import *

model["backbone"].update(mask_kind="random", mask_ratio=0.75)
