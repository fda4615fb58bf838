"""Linear probe on the embedded ImageNet-style folder: the frozen encoder's mean patch token.

Batch norm without scale before the linear layer, no weight decay: the form of MAE's probe at a small size.
8 epochs x 94 iterations (3,000 / 32) = 752 iterations.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.datasets.mini_imagenet import *
    from .._base_.runtime import *

from mmengine.optim import CosineAnnealingLR, OptimWrapper
from mmpretrain.models import CrossEntropyLoss, ImageClassifier, LinearClsHead
from torch.optim import SGD

from cmae_mm.transfer.imagenet import ImageNetViT, PooledBatchNorm

model = dict(
    type=ImageClassifier,
    backbone=dict(
        type=ImageNetViT,
        arch=dict(embed_dims=128, num_layers=6, num_heads=4, feedforward_channels=512),
        img_size=64,
        patch_size=8,
        out_type="avg_featmap",
        final_norm=True,
        frozen_stages=6,
        backbone_file=None,
    ),
    neck=dict(type=PooledBatchNorm, in_channels=128),
    head=dict(type=LinearClsHead, num_classes=10, in_channels=128, loss=dict(type=CrossEntropyLoss)),
)
optim_wrapper = dict(
    type=OptimWrapper,
    optimizer=dict(type=SGD, lr=0.2, momentum=0.9, weight_decay=0.0),
)
param_scheduler = [dict(type=CosineAnnealingLR, T_max=8, by_epoch=True, convert_to_iter_based=True)]
train_cfg = dict(by_epoch=True, max_epochs=8, val_interval=4)
