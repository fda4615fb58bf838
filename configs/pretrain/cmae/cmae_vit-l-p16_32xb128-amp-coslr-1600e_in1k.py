"""CMAE, ViT-L/16, 1600 epochs, 32 GPUs x 128 images = batch 4096: the released recipe at another size."""

from mmengine.config import read_base

with read_base():
    from ..._base_.recipes.cmae_vit_l_p16 import *
    from ..._base_.schedules.pretrain_adamw_1600e import *
