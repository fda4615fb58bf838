"""A short run: all of the 160,000 iterations' schedule at 20 / 160 of its length."""

from mmengine.config import read_base

with read_base():
    from .upernet_160k import *

iterations = 20000
# warm-up 1500 / 160,000 of the run, evaluation every tenth
param_scheduler[0].update(end=iterations * 1500 // 160000)
param_scheduler[1].update(begin=iterations * 1500 // 160000, end=iterations)
train_cfg.update(max_iters=iterations, val_interval=iterations // 10)
