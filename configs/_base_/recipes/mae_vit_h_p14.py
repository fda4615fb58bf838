"""MAE with ViT-H/14: width 1280, 32 blocks, 16 heads; 224 / 14 = 16, so 256 patches."""

from mmengine.config import read_base

with read_base():
    from .mae_vit_b_p16 import *

model["backbone"].update(arch="h", patch_size=14)
model["neck"].update(num_patches=256, patch_size=14, embed_dim=1280)
model["head"].update(patch_size=14)
