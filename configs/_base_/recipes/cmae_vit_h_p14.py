"""CMAE with ViT-H/14: width 1280, 32 blocks, 16 heads; 224 / 14 = 16, so 256 patches."""

from mmengine.config import read_base

with read_base():
    from .cmae_vit_b_p16 import *

# 64 cells of 2 x 2 patches: int(64 * 0.35) = 22 kept, 88 of 256 patches visible
model["backbone"].update(arch="h", patch_size=14)
model["pixel_decoder"].update(num_patches=256, patch_size=14, embed_dim=1280)
model["feature_decoder"].update(num_patches=256, patch_size=14, embed_dim=1280)
model["projector"].update(in_channels=1280)
model["head"].update(patch_size=14)
