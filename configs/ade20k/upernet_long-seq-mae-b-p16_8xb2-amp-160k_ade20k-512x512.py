"""long_seq_mae, ViT-B: learning rate 8e-5, decay 0.8, drop path 0.1.

Protocol SEG-UP (facebookresearch/long_seq_mae, its authors' answer in the issue tracker).
"""

from mmengine.config import read_base

with read_base():
    from .._base_.recipes.upernet_vit_b_p16 import *

optim_wrapper["optimizer"].update(lr=8e-5)
optim_wrapper["paramwise_cfg"].update(layer_decay_rate=0.8)
