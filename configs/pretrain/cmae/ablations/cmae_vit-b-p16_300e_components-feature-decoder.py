"""CMAE ablation. Feature decoder, no pixel shift: both views are one crop."""

from mmengine.config import read_base

with read_base():
    from ...._base_.recipes.cmae_vit_b_p16 import *

model["data_preprocessor"].update(max_shift=0)
