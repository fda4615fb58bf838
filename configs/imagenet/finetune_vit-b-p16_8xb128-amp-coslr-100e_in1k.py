"""Fine-tuning of ViT-B/16, 100 epochs, after MAE's repository: 2e-3, layer decay 0.65, drop path 0.1 (83.66 top-1).

Four seeds of the authors: 83.63, 83.66, 83.52, 83.46. The same numbers are CMAE's for 300 epochs of pretraining.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.recipes.finetune_vit_b_p16 import *
