"""CMAE with ViT-S/16: width 384, 12 blocks, 6 heads."""

from mmengine.config import read_base

with read_base():
    from .cmae_vit_b_p16 import *

model["backbone"].update(arch="deit-small")
model["pixel_decoder"].update(embed_dim=384)
model["feature_decoder"].update(embed_dim=384)
model["projector"].update(in_channels=384)
