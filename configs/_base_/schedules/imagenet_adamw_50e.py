"""AdamW with layer decay, 50 epochs, learning rate 4e-3, decay 0.75: MAE's fine-tuning code for ViT-L and ViT-H."""

from mmengine.config import read_base

with read_base():
    from .imagenet_adamw_100e import *

optim_wrapper["optimizer"].update(lr=1e-3 * 1024 / 256)
optim_wrapper["paramwise_cfg"].update(layer_decay_rate=0.75)
param_scheduler[1].update(T_max=45, end=50, eta_min_ratio=1e-6 / 4e-3)
train_cfg["max_epochs"] = 50
