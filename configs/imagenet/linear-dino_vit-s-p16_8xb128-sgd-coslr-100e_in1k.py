"""DINO's linear probe of ViT-S/16: class tokens of the last 4 blocks, each through the final norm, side by side."""

from mmengine.config import read_base

with read_base():
    from .._base_.recipes.linear_dino_vit_b_p16 import *

model["backbone"].update(arch="deit-small", parts=["cls-4", "cls-3", "cls-2", "cls-1"])
model["head"].update(in_channels=4 * 384)
