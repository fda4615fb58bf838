"""CMAE ablation. Mask ratio 0.85 instead of 0.65: int(49 * 0.15) = 7 cells, 28 patches stay visible."""

from mmengine.config import read_base

with read_base():
    from ...._base_.recipes.cmae_vit_b_p16 import *

model["backbone"].update(mask_ratio=0.85)
