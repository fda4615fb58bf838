"""MAE, ViT-S/16, 300 epochs, 32 GPUs x 128 images = batch 4096."""

from mmengine.config import read_base

with read_base():
    from ..._base_.recipes.mae_vit_s_p16 import *
