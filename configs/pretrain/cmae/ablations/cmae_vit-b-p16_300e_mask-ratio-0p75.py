"""CMAE ablation. Mask ratio 0.75 instead of 0.65: int(49 * 0.25) = 12 cells, 48 patches stay visible."""

from mmengine.config import read_base

with read_base():
    from ...._base_.recipes.cmae_vit_b_p16 import *

model["backbone"].update(mask_ratio=0.75)
