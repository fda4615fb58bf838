"""CMAE ablation. The contrastive feature is the mean of the visible patches alone."""

from mmengine.config import read_base

with read_base():
    from ...._base_.recipes.cmae_vit_b_p16 import *

model["feature_decoder"].update(token_set="visible")
