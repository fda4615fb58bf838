"""CAE-L: learning rate 4e-5, decay 0.95, drop path 0.15, layer scale 1e-5.

Protocol SEG-UP (lxtGH/CAE): 54.9 mIoU in its repository. Blocks of the four maps as in ViT-L (unsure).
"""

from mmengine.config import read_base

with read_base():
    from .._base_.recipes.upernet_vit_l_p16 import *

model["backbone"].update(layer_scale=1e-5, drop_path_rate=0.15)
optim_wrapper["optimizer"].update(lr=4e-5)
