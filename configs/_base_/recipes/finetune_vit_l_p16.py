"""Fine-tuning of ViT-L/16 on ImageNet-1k: MAE's repository (85.95 top-1), drop path 0.2."""

from mmengine.config import read_base

with read_base():
    from .finetune_vit_b_p16 import *
    from ..schedules.imagenet_adamw_50e import *

model["backbone"].update(arch="large", drop_path_rate=0.2)
model["head"].update(in_channels=1024)
