"""Partial fine-tuning of ViT-L/16, MAE's Figure 9: 0 blocks 73.5, 0.5 79.1, 1 81.0, 24 (all) 84.9 top-1.

Table 9 of its paper: 4e-3, layer decay 0.75, drop path 0.1; epochs are chosen from 50, 100 and 200 for each number of
blocks, the best counts. Those numbers are of the ablation's encoder: 800 epochs, raw pixels; 0 blocks is there a
linear probe. How many blocks: model.backbone.trainable_blocks.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.recipes.finetune_vit_l_p16 import *

protocol = "IN-PARTIAL"
model["backbone"].update(trainable_blocks=1, drop_path_rate=0.1)
