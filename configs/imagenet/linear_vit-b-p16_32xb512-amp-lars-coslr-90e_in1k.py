"""MAE's linear probe, ViT-B/16, 90 epochs, 32 GPUs x 512 images = batch 16384."""

from mmengine.config import read_base

with read_base():
    from .._base_.recipes.linear_vit_b_p16 import *
