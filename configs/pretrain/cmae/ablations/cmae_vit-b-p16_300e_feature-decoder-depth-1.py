"""CMAE ablation. A feature decoder of 1 block instead of 2."""

from mmengine.config import read_base

with read_base():
    from ...._base_.recipes.cmae_vit_b_p16 import *

model["feature_decoder"].update(decoder_depth=1)
