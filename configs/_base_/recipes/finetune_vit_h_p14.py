"""Fine-tuning of ViT-H/14 on ImageNet-1k: MAE's repository (86.93 top-1), drop path 0.3."""

from mmengine.config import read_base

with read_base():
    from .finetune_vit_l_p16 import *

model["backbone"].update(arch="huge", patch_size=14, drop_path_rate=0.3)
model["head"].update(in_channels=1280)
