"""MAE's recipe at 20 / 160 of its length: 20,000 x 16 / 20,210 = 16 epochs.

Protocol SEG-UP-20K: for comparisons on a small budget, not for the published table.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.recipes.upernet_vit_b_p16 import *
    from .._base_.schedules.upernet_20k import *

protocol = "SEG-UP-20K"
default_hooks["checkpoint"].update(interval=train_cfg["val_interval"])
