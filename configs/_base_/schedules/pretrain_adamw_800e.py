"""AdamW for 800 epochs at batch 4096: 800 x 313 = 250400 iterations."""

from mmengine.config import read_base

with read_base():
    from .pretrain_adamw_300e import *

train_cfg.update(max_epochs=800)
param_scheduler[1].update(T_max=760, end=800)  # 800 - 40
