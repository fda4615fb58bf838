"""Multi-View MAE ablation. A decoder of 12 blocks instead of 8."""

from mmengine.config import read_base

with read_base():
    from ...._base_.recipes.mv_mae_vit_b_p16 import *

model["pixel_decoder"].update(decoder_depth=12)
