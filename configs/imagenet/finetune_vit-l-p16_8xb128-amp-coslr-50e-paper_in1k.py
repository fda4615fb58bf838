"""Fine-tuning of ViT-L/16, 50 epochs, after Table 9 of MAE's paper: drop path 0.1 instead of the repository's 0.2."""

from mmengine.config import read_base

with read_base():
    from .._base_.recipes.finetune_vit_l_p16 import *

model["backbone"].update(drop_path_rate=0.1)
