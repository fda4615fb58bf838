"""CMAE with ViT-L/16: width 1024, 24 blocks, 16 heads."""

from mmengine.config import read_base

with read_base():
    from .cmae_vit_b_p16 import *

model["backbone"].update(arch="l")
model["pixel_decoder"].update(embed_dim=1024)
model["feature_decoder"].update(embed_dim=1024)
model["projector"].update(in_channels=1024)
