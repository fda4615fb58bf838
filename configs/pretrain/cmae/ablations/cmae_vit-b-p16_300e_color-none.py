"""CMAE ablation. No colour augmentation.

Published: 83.4 top-1 against 83.8 with it on the target branch, fine-tuned.
"""

from mmengine.config import read_base

with read_base():
    from ...._base_.recipes.cmae_vit_b_p16 import *

model["data_preprocessor"].update(color_on="none")
