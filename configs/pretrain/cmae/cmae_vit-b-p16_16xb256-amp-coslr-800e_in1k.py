"""CMAE, ViT-B/16, 800 epochs, 16 GPUs x 256 images = batch 4096: the released recipe."""

from mmengine.config import read_base

with read_base():
    from ..._base_.recipes.cmae_vit_b_p16 import *
    from ..._base_.schedules.pretrain_adamw_800e import *

train_dataloader.update(batch_size=256)
