"""MoCo v3's linear probe of ViT-B/16: SGD without batch norm, 8 GPUs x 128 = batch 1024, rate 3 x 1024 / 256 = 12.

After mmpretrain's config, which reaches 76.9 with MoCo v3's weights: cosine by epoch without warm-up, normal start of
deviation 0.01, crops drawn until they fit and resized bilinearly. 1,281,167 / 1024 = 1,251 iterations an epoch.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.recipes.linear_vit_b_p16 import *

from mmengine.optim import OptimWrapper
from mmpretrain.datasets import RandomResizedCrop
from torch.optim import SGD

model.update(neck=None)
model["head"].update(init_cfg=dict(type="Normal", layer="Linear", std=0.01, bias=0.0))
train_pipeline[1] = dict(type=RandomResizedCrop, scale=224, backend="pillow", interpolation="bilinear")
test_pipeline[1].update(interpolation="bilinear")
train_dataloader.update(batch_size=128)
val_dataloader["dataset"].update(pipeline=test_pipeline)
test_dataloader["dataset"].update(pipeline=test_pipeline)
train_dataloader["dataset"].update(pipeline=train_pipeline)
optim_wrapper = dict(
    type=OptimWrapper, optimizer=dict(type=SGD, lr=3 * 1024 / 256, momentum=0.9, weight_decay=0.0)
)
param_scheduler = [dict(type=CosineAnnealingLR, T_max=90, by_epoch=True, begin=0, end=90)]
auto_scale_lr.update(base_batch_size=1024)
protocol = "IN-LIN-MOCOV3"
