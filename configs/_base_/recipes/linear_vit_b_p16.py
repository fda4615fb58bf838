"""MAE's linear probe of ViT-B/16, images augmented and encoded in every epoch: 90 epochs, 32 GPUs x 512 = batch 16384.

1,281,167 / 16384 = 78 iterations an epoch, 7,020 in all. Class token after the encoder's norm, batch norm without scale
and shift, a linear layer; LARS at 0.1 x 16384 / 256 = 6.4. Sources: MAE's paper, A.1 and table 10, and its code.
"""

from mmengine.config import read_base

with read_base():
    from ..datasets.imagenet_probe_224 import *
    from ..runtime import *

from mmengine.optim import AmpOptimWrapper, CosineAnnealingLR, LinearLR
from mmpretrain.models import CrossEntropyLoss, ImageClassifier, LinearClsHead

from cmae_mm.transfer.imagenet import ImageNetViT, PooledBatchNorm
from cmae_mm.transfer.lars import LARS

model = dict(
    type=ImageClassifier,
    backbone=dict(
        type=ImageNetViT,
        arch="base",
        img_size=224,
        patch_size=16,
        out_type="cls_token",
        final_norm=True,
        frozen_stages=12,
        backbone_file=None,
    ),
    neck=dict(type=PooledBatchNorm, in_channels=768),
    head=dict(
        type=LinearClsHead,
        num_classes=1000,
        in_channels=768,
        loss=dict(type=CrossEntropyLoss),
        init_cfg=dict(type="TruncNormal", layer="Linear", std=0.01, bias=0.0),
    ),
)
optim_wrapper = dict(
    type=AmpOptimWrapper,
    dtype="bfloat16",
    optimizer=dict(type=LARS, lr=0.1 * 16384 / 256, momentum=0.9, weight_decay=0.0),
)
param_scheduler = [
    # 10 epochs = 780 iterations; the first rate is 1e-4 of the peak in place of 0
    dict(type=LinearLR, start_factor=1e-4, begin=0, end=10, by_epoch=True, convert_to_iter_based=True),
    dict(
        type=CosineAnnealingLR, T_max=80, begin=10, end=90, by_epoch=True, convert_to_iter_based=True
    ),  # 90 - 10
]
train_cfg = dict(by_epoch=True, max_epochs=90, val_interval=1)
default_hooks["checkpoint"].update(interval=5)
# Another batch changes the rate with it, as MAE does.
auto_scale_lr = dict(enable=True, base_batch_size=16384)
protocol = "IN-LIN-MAE"
