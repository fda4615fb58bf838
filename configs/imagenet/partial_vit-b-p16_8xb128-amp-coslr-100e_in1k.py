"""Partial fine-tuning of ViT-B/16: the last blocks learn, with the recipe of MAE's partial curve (section 4.3, A.1).

That is Table 9 of its paper: 4e-3, layer decay 0.75. How many blocks: model.backbone.trainable_blocks = 0, 0.5, 1, 2,
4, 6, 8, 12; epochs are chosen from 50, 100 and 200 for each number, the best counts. CMAE and MAE with ViT-B have
published differences only (+2.5 with one block).
"""

from mmengine.config import read_base

with read_base():
    from .._base_.recipes.finetune_vit_b_p16 import *

protocol = "IN-PARTIAL"
model["backbone"].update(trainable_blocks=1)
optim_wrapper["optimizer"].update(lr=1e-3 * 1024 / 256)
optim_wrapper["paramwise_cfg"].update(layer_decay_rate=0.75)
param_scheduler[1].update(eta_min_ratio=1e-6 / 4e-3)
