"""CMAE ablation. Pixel shift and feature decoder: CMAE itself, beside its ablations.

Published: 83.8 top-1 fine-tuned.
"""

from mmengine.config import read_base

with read_base():
    from ...._base_.recipes.cmae_vit_b_p16 import *
