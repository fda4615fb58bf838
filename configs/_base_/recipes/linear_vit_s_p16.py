"""MAE's linear probe of ViT-S/16: width 384, 12 blocks, 6 heads. MAE has no ViT-S; the recipe is that of ViT-B."""

from mmengine.config import read_base

with read_base():
    from .linear_vit_b_p16 import *

model["backbone"].update(arch="deit-small")
model["neck"].update(in_channels=384)
model["head"].update(in_channels=384)
