"""MAE, ViT-B/16, 300 epochs at batch 32 x 128 = 4096: every MAE recipe is a diff of this one."""

from mmengine.config import read_base

with read_base():
    from ..datasets.imagenet_crop224 import *
    from ..models.mae_vit_b_p16 import *
    from ..imagenet_monitors import *
    from ..schedules.pretrain_adamw_300e import *

default_hooks.update(checkpoint=dict(interval=10, max_keep_ckpts=3))
randomness.update(seed=60)
