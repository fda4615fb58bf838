"""MAE's recipe at 80 / 160 of its length: 80,000 x 16 / 20,210 = 63 epochs.

Protocol SEG-UP-80K: for comparisons on a small budget, not for the published table.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.recipes.upernet_vit_b_p16 import *
    from .._base_.schedules.upernet_80k import *

protocol = "SEG-UP-80K"
default_hooks["checkpoint"].update(interval=train_cfg["val_interval"])
