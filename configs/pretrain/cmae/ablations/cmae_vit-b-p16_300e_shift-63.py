"""CMAE ablation. Pixel shift in 0..63 instead of 0..31."""

from mmengine.config import read_base

with read_base():
    from ...._base_.recipes.cmae_vit_b_p16 import *

model["data_preprocessor"].update(max_shift=63)
# a larger master crop: 224 + 64 = 288
train_dataloader["dataset"].update(size=288)
