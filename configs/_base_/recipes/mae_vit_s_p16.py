"""MAE with ViT-S/16: width 384, 12 blocks, 6 heads."""

from mmengine.config import read_base

with read_base():
    from .mae_vit_b_p16 import *

model["backbone"].update(arch="deit-small")
model["neck"].update(embed_dim=384)
