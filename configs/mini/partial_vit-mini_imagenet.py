"""Partial fine-tuning at a small size: the last blocks of six learn, with the recipe of full fine-tuning.

How many: --cfg-options model.backbone.trainable_blocks=N with N = 0, 0.5, 1, ..., 6; 0.5 is the MLP of the last block,
6 is full fine-tuning. The norm after pooling and the linear layer always learn: 0 is a linear layer on a scaled mean.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.recipes.mini_finetune_vit_p8 import *

protocol = "mini-partial"
model["backbone"].update(trainable_blocks=1)
