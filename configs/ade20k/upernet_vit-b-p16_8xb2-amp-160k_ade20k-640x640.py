"""MAE's recipe with 640 px crops and windows of stride 426. Protocol SEG-UP-640.

Crops as BEiT has them; with MAE's learning rate, for which no published number is known to us (unsure).
"""

from mmengine.config import read_base

with read_base():
    from .._base_.recipes.upernet_vit_b_p16_640 import *
