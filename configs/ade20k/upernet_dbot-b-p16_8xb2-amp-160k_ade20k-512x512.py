"""dBOT-B: MAE's recipe with drop path 0.2. Protocol SEG-UP (liuxingbin/dbot, DOWNSTREAM.md)."""

from mmengine.config import read_base

with read_base():
    from .._base_.recipes.upernet_vit_b_p16 import *

model["backbone"].update(drop_path_rate=0.2)
