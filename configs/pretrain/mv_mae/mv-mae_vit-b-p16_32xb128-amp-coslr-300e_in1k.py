"""Multi-View MAE, ViT-B/16, 300 epochs, 32 GPUs x 128 images = batch 4096: its ablations change one thing of this."""

from mmengine.config import read_base

with read_base():
    from ..._base_.recipes.mv_mae_vit_b_p16 import *
