"""Fine-tuning on the embedded ImageNet-style folder: mean patch token, a new norm, a linear layer."""

from mmengine.config import read_base

with read_base():
    from .._base_.recipes.mini_finetune_vit_p8 import *
