"""Multi-View MAE, ViT-S/16, 800 epochs, 32 GPUs x 128 images = batch 4096."""

from mmengine.config import read_base

with read_base():
    from ..._base_.recipes.mv_mae_vit_s_p16 import *
    from ..._base_.schedules.pretrain_adamw_800e import *
