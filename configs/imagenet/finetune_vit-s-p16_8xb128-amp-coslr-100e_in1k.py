"""Fine-tuning of ViT-S/16, 100 epochs: ViT-B's settings with the width of ViT-S.

No recipe of MAE or CMAE for ViT-S is known to us; neither publishes a number for it.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.recipes.finetune_vit_b_p16 import *

model["backbone"].update(arch="deit-small")  # 384 wide; mmpretrain's "small" is another network
model["head"].update(in_channels=384)
