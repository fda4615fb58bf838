"""MAE's linear probe, ViT-S/16, 90 epochs, 32 GPUs x 512 images = batch 16384."""

from mmengine.config import read_base

with read_base():
    from .._base_.recipes.linear_vit_s_p16 import *
