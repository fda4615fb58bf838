"""MAE's linear probe of ViT-H/14: width 1280, 32 blocks, 16 heads. 50 epochs are enough (MAE's code); here 90."""

from mmengine.config import read_base

with read_base():
    from .linear_vit_b_p16 import *

model["backbone"].update(arch="huge", patch_size=14, frozen_stages=32)
model["neck"].update(in_channels=1280)
model["head"].update(in_channels=1280)
