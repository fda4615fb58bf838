"""Multi-View MAE ablation. Mask ratio 0.75 instead of 0.8: 49 of 196 patches stay visible."""

from mmengine.config import read_base

with read_base():
    from ...._base_.recipes.mv_mae_vit_b_p16 import *

model["backbone"].update(mask_ratio=0.75)
