"""DINO's linear probe of ViT-B/16: class token and mean patch token of the last block, side by side.

SGD without batch norm, 8 GPUs x 128 = batch 1024, rate 0.001 x 1024 / 256 = 0.004, 100 epochs, cosine by epoch. DINO's
code reports the best epoch; the record has it and the last. Its two vectors are interleaved there: the same layer with
its columns in another order.
"""

from mmengine.config import read_base

with read_base():
    from .linear_vit_b_p16 import *

from mmengine.optim import OptimWrapper
from mmpretrain.datasets import RandomResizedCrop
from torch.optim import SGD

from cmae_mm.transfer.frozen_features import TokenViT

model["backbone"].update(type=TokenViT, parts=["cls-1", "avg-1"], out_type="raw")
model.update(neck=None)
model["head"].update(in_channels=2 * 768, init_cfg=dict(type="Normal", layer="Linear", std=0.01, bias=0.0))
train_pipeline[1] = dict(type=RandomResizedCrop, scale=224, backend="pillow", interpolation="bilinear")
train_dataloader.update(batch_size=128)
train_dataloader["dataset"].update(pipeline=train_pipeline)
optim_wrapper = dict(
    type=OptimWrapper, optimizer=dict(type=SGD, lr=0.001 * 1024 / 256, momentum=0.9, weight_decay=0.0)
)
param_scheduler = [dict(type=CosineAnnealingLR, T_max=100, by_epoch=True, begin=0, end=100)]
train_cfg.update(max_epochs=100)
auto_scale_lr.update(base_batch_size=1024)
protocol = "IN-LIN-DINO"
