"""CMAE with the hybrid ViT-B: masked convolutional stages before 11 transformer blocks (reconstructed, docs/hybrid.md).

There is no class token, so the decoders have none. The target branch has neither fusion nor final norm.
"""

from mmengine.config import read_base

with read_base():
    from .cmae_vit_b_p16 import *

from cmae_mm.pretrain.hybrid import CMAEHybridViT

model["backbone"] = dict(
    type=CMAEHybridViT, arch="b", img_size=224, mask_kind="block", mask_ratio=0.65, mask_block=2
)
model["pixel_decoder"].update(class_token=False)
model["feature_decoder"].update(class_token=False)
# The hybrid's norms are named norm1, norm2, norm: the substring "ln" does not find them.
optim_wrapper["paramwise_cfg"]["custom_keys"].update(norm=dict(decay_mult=0.0))
