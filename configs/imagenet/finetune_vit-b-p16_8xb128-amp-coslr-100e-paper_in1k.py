"""Fine-tuning of ViT-B/16, 100 epochs, after Table 9 of MAE's paper: 4e-3, layer decay 0.75, drop path 0.1.

The authors explain the two recipes: the paper's is for encoders that predicted raw pixels, the repository's for
normalised ones.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.recipes.finetune_vit_b_p16 import *

optim_wrapper["optimizer"].update(lr=1e-3 * 1024 / 256)
optim_wrapper["paramwise_cfg"].update(layer_decay_rate=0.75)
param_scheduler[1].update(eta_min_ratio=1e-6 / 4e-3)
