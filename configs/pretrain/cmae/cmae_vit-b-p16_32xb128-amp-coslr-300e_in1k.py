"""CMAE, ViT-B/16, 300 epochs, 32 GPUs x 128 images = batch 4096: the released recipe.

Published fine-tuning accuracy: 83.8 top-1 (official README).
"""

from mmengine.config import read_base

with read_base():
    from ..._base_.recipes.cmae_vit_b_p16 import *
