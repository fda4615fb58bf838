"""CMAE, ViT-B/16, 300 epochs, batch 4096, as the paper (arXiv 2207.13532) words it.

The differences from the released recipe are those of cmae_mm.pretrain.PRESETS["paper"].
"""

from mmengine.config import read_base

with read_base():
    from ..._base_.recipes.cmae_vit_b_p16 import *

model.update(target_norm=True)
model["data_preprocessor"].update(channel_order="rgb", max_shift=30, flip="after")
model["backbone"].update(mask_kind="random", mask_ratio=0.75)
model["head"].update(contrastive_scale="1")
optim_wrapper["paramwise_cfg"].update(flat_decay_mult=0.0)
