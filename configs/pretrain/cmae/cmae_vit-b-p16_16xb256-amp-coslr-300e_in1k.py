"""CMAE, ViT-B/16, 300 epochs, 16 GPUs x 256 images = batch 4096: the released recipe."""

from mmengine.config import read_base

with read_base():
    from ..._base_.recipes.cmae_vit_b_p16 import *

train_dataloader.update(batch_size=256)
