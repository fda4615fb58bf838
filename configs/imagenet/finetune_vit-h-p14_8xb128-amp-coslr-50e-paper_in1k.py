"""Fine-tuning of ViT-H/14, 50 epochs, after Table 9 of MAE's paper: drop path 0.2 instead of the repository's 0.3."""

from mmengine.config import read_base

with read_base():
    from .._base_.recipes.finetune_vit_h_p14 import *

model["backbone"].update(drop_path_rate=0.2)
