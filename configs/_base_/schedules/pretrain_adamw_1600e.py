"""AdamW for 1600 epochs at batch 4096: 1600 x 313 = 500800 iterations."""

from mmengine.config import read_base

with read_base():
    from .pretrain_adamw_300e import *

train_cfg.update(max_epochs=1600)
param_scheduler[1].update(T_max=1560, end=1600)  # 1600 - 40
