"""CMAE ablation. Contrastive weight 0 instead of 1: MAE with block masks."""

from mmengine.config import read_base

with read_base():
    from ...._base_.recipes.cmae_vit_b_p16 import *

model["head"].update(con_weight=0.0)
