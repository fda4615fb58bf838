"""CMAE, ViT-B/16, 1600 epochs, 32 GPUs x 128 images = batch 4096: the released recipe.

Published fine-tuning accuracy: 84.7 top-1 (official README).
"""

from mmengine.config import read_base

with read_base():
    from ..._base_.datasets.imagenet_master256 import *
    from ..._base_.models.cmae_vit_b_p16 import *
    from ..._base_.runtime import *
    from ..._base_.schedules.cmae_adamw_300e import *

# 1600 epochs x 313 iterations = 500800; 1600 - 40 = 1560
train_cfg.update(max_epochs=1600)
param_scheduler[1].update(T_max=1560, end=1600)
default_hooks.update(checkpoint=dict(interval=10, max_keep_ckpts=3))
randomness = dict(seed=60, diff_rank_seed=True)
