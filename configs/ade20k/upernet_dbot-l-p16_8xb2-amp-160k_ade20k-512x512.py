"""dBOT-L: learning rate 2e-5, decay 0.95, drop path 0.2. Protocol SEG-UP (liuxingbin/dbot; its README says 3e-5)."""

from mmengine.config import read_base

with read_base():
    from .._base_.recipes.upernet_vit_l_p16 import *
