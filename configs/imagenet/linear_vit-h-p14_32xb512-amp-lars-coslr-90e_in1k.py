"""MAE's linear probe, ViT-H/14, 90 epochs, 32 GPUs x 512 images = batch 16384."""

from mmengine.config import read_base

with read_base():
    from .._base_.recipes.linear_vit_h_p14 import *
