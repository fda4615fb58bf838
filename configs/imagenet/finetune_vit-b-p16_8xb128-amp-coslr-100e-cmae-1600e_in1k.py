"""Fine-tuning of ViT-B/16 after CMAE's code, for 1600 epochs of pretraining: 1e-3, layer decay 0.65 (84.7 top-1)."""

from mmengine.config import read_base

with read_base():
    from .._base_.recipes.finetune_cmae_vit_b_p16 import *

# 1e-3 at batch 1024: 2.5e-4 for each 256 images, half of what is used after 300 epochs
optim_wrapper["optimizer"].update(lr=2.5e-4 * 1024 / 256)
