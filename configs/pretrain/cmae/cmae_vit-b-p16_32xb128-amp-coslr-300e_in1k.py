"""CMAE, ViT-B/16, 300 epochs, 32 GPUs x 128 images = batch 4096: the released recipe.

Published fine-tuning accuracy: 83.8 top-1 (official README).
"""

from mmengine.config import read_base

with read_base():
    from ..._base_.datasets.imagenet_master256 import *
    from ..._base_.models.cmae_vit_b_p16 import *
    from ..._base_.runtime import *
    from ..._base_.schedules.cmae_adamw_300e import *

default_hooks.update(checkpoint=dict(interval=10, max_keep_ckpts=3))
randomness = dict(seed=60, diff_rank_seed=True)
