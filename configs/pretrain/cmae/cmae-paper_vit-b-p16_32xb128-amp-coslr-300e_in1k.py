"""CMAE, ViT-B/16, 300 epochs, batch 4096, as the paper (arXiv 2207.13532) words it.

The differences from the released recipe are those of cmae_mm.pretrain.PRESETS["paper"].
"""

from mmengine.config import read_base

with read_base():
    from ..._base_.datasets.imagenet_master256 import *
    from ..._base_.models.cmae_vit_b_p16 import *
    from ..._base_.runtime import *
    from ..._base_.schedules.cmae_adamw_300e import *

model.update(target_norm=True)
model["data_preprocessor"].update(channel_order="rgb", max_shift=30)
model["backbone"].update(mask_kind="random", mask_ratio=0.75)
model["head"].update(contrastive_scale="1")
default_hooks.update(checkpoint=dict(interval=10, max_keep_ckpts=3))
randomness = dict(seed=60, diff_rank_seed=True)
