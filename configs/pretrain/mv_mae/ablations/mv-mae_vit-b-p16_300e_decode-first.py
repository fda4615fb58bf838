"""Multi-View MAE ablation. Only the first view is reconstructed.

Second reading of the paper's row "without two different targets".
"""

from mmengine.config import read_base

with read_base():
    from ...._base_.recipes.mv_mae_vit_b_p16 import *

model.update(decode_views="first")
