"""CMAE ablation. The feature decoder shares its weights with the pixel decoder."""

from mmengine.config import read_base

with read_base():
    from ...._base_.recipes.cmae_vit_b_p16 import *

from cmae_mm.pretrain import SharedFeatureDecoder

model["feature_decoder"] = dict(type=SharedFeatureDecoder, embed_dim=768, decoder_embed_dim=512)
