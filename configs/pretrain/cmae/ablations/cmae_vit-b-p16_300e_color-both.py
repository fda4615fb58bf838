"""CMAE ablation. Colour augmentation on both branches."""

from mmengine.config import read_base

with read_base():
    from ...._base_.recipes.cmae_vit_b_p16 import *

model["data_preprocessor"].update(color_on="both")
