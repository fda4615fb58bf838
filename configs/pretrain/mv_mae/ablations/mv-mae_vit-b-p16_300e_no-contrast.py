"""Multi-View MAE ablation. No contrastive loss."""

from mmengine.config import read_base

with read_base():
    from ...._base_.recipes.mv_mae_vit_b_p16 import *

model["projector"] = None
