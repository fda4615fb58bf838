"""DINO's linear probe of ViT-B/16, 100 epochs, 8 GPUs x 128 images = batch 1024."""

from mmengine.config import read_base

with read_base():
    from .._base_.recipes.linear_dino_vit_b_p16 import *
