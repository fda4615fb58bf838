"""CMAE ablation. Pixel shift, no feature decoder: the contrast is on the visible tokens.

Published: 83.6 top-1 fine-tuned.
"""

from mmengine.config import read_base

with read_base():
    from ...._base_.recipes.cmae_vit_b_p16 import *

from cmae_mm.pretrain import VisibleMean

model["feature_decoder"] = dict(type=VisibleMean)
