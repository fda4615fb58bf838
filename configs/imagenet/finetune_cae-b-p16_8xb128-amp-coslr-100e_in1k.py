"""Fine-tuning of CAE-B/16, 100 epochs, after mmpretrain's recipe (300 epochs of pretraining: 83.2 top-1).

Absolute and relative positions, layer scale 0.1; 5 epochs of warm-up.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.recipes.finetune_vit_b_p16 import *

protocol = "IN-FT"
model["backbone"].update(relative_positions=True, layer_scale_init_value=0.1)
# 8e-3 at batch 1024, and every layer ends at 1e-6
optim_wrapper["optimizer"].update(lr=2e-3 * 1024 / 256)
param_scheduler[1].pop("eta_min_ratio")
param_scheduler[1].update(eta_min=1e-6)
