"""AdamW for 20 epochs of 94 iterations at batch 32 (3,000 images): 1,880 iterations."""

from mmengine.config import read_base

with read_base():
    from .pretrain_adamw_300e import *

# 1e-3 at batch 32: 8e-3 for each 256 images, large as the run is short
optim_wrapper["optimizer"].update(lr=8e-3 * 32 / 256)
# 2 epochs of warm-up; 20 - 2 = 18
param_scheduler[0].update(start_factor=1e-2, end=2)
param_scheduler[1].update(T_max=18, begin=2, end=20)
train_cfg.update(max_epochs=20)
# Any batch will do: two processes double it.
auto_scale_lr = None
