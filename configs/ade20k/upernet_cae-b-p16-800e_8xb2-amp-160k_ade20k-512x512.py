"""CAE-B of 800 epochs: learning rate 2e-4, layer scale 0.1. Better pretraining wants a smaller rate.

Protocol SEG-UP (lxtGH/CAE): 49.7 mIoU in its repository.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.recipes.upernet_vit_b_p16 import *

model["backbone"].update(layer_scale=0.1)
optim_wrapper["optimizer"].update(lr=2e-4)
