"""MAE, ViT-B/16, 1600 epochs, 32 GPUs x 128 images = batch 4096."""

from mmengine.config import read_base

with read_base():
    from ..._base_.recipes.mae_vit_b_p16 import *
    from ..._base_.schedules.pretrain_adamw_1600e import *
