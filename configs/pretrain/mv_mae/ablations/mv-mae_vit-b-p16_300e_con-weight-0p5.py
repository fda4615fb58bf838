"""Multi-View MAE ablation. Loss weight 0.5 instead of 2."""

from mmengine.config import read_base

with read_base():
    from ...._base_.recipes.mv_mae_vit_b_p16 import *

model["head"].update(con_weight=0.5)
