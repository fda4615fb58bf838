"""MAE's linear probe of ViT-L/16: width 1024, 24 blocks, 16 heads. 50 epochs are enough (MAE's code); here 90."""

from mmengine.config import read_base

with read_base():
    from .linear_vit_b_p16 import *

model["backbone"].update(arch="large", frozen_stages=24)
model["neck"].update(in_channels=1024)
model["head"].update(in_channels=1024)
