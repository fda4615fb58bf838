"""BEiT-B after self-supervised pretraining: learning rate 7e-4, layer scale 0.1, relative positions only.

Protocol SEG-UP (microsoft/unilm, beit/semantic_segmentation, config ..512..pt). MAE's table has 47.1 for it, iBOT's
45.8.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.recipes.upernet_vit_b_p16 import *

model["backbone"].update(positions=False, key_bias=False, layer_scale=0.1)
optim_wrapper["optimizer"].update(lr=7e-4)
