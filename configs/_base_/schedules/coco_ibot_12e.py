"""iBOT's schedule: 12 epochs, steps at 8 and 11, batch 16 = 8 GPUs x 2 (github bytedance/ibot,
evaluation/README.md)."""

from mmengine.config import read_base

with read_base():
    from .coco_12e import *

optim_wrapper["optimizer"].update(lr=1e-4)
param_scheduler[1].update(milestones=[8, 11])
auto_scale_lr.update(base_batch_size=16)
