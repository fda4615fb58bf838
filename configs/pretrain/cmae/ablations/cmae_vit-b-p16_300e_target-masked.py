"""CMAE ablation. The target encoder sees a masked image too, with a mask of its own."""

from mmengine.config import read_base

with read_base():
    from ...._base_.recipes.cmae_vit_b_p16 import *

model.update(target_input="masked")
