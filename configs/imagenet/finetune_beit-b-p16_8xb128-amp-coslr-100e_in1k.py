"""Fine-tuning of BEiT-B/16, 100 epochs, after mmpretrain's recipe (300 epochs of pretraining: 83.1 top-1).

Relative positions and layer scale 0.1; 20 epochs of warm-up. The head starts at 0.02, there as here.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.recipes.finetune_vit_b_p16 import *

protocol = "IN-FT"
model["backbone"].update(relative_positions=True, positions=False, layer_scale_init_value=0.1)
model["head"]["init_cfg"].update(std=0.02)
# 4e-3 at batch 1024, and every layer ends at 1e-6
optim_wrapper["optimizer"].update(lr=1e-3 * 1024 / 256)
param_scheduler[0].update(end=20)
param_scheduler[1].pop("eta_min_ratio")
param_scheduler[1].update(T_max=80, begin=20, eta_min=1e-6)
