"""Linear segmentation probe on the embedded set: batch norm and a 1 x 1 convolution on a frozen small ViT.

The form of configs/ade20k/linear_*: 220 iterations x 8 / 400 images = 4.4 epochs.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.datasets.mini_ade20k import *
    from .._base_.models.frozen_vit import *
    from .._base_.runtime import *

from mmengine.optim import LinearLR, OptimWrapper, PolyLR
from mmengine.runner import IterBasedTrainLoop
from torch.optim import AdamW

default_scope = "mmseg"
model.update(
    dict(
        data_preprocessor=dict(size=(96, 96)),
        backbone=dict(
            img_size=96,
            patch_size=8,
            embed_dims=128,
            depth=6,
            num_heads=4,
            pretrain_img_size=64,
            out_indices=(5,),
        ),
        decode_head=dict(in_channels=128, num_classes=10),
    )
)
model.test_cfg = dict(mode="whole")
optim_wrapper = dict(
    type=OptimWrapper,
    optimizer=dict(type=AdamW, lr=1e-2, betas=(0.9, 0.999), weight_decay=1e-4),
)
param_scheduler = [
    dict(type=LinearLR, start_factor=0.01, by_epoch=False, begin=0, end=15),
    dict(type=PolyLR, eta_min=0.0, power=1.0, by_epoch=False, begin=15, end=220),
]
train_cfg = dict(type=IterBasedTrainLoop, max_iters=220, val_interval=220)
default_hooks.update(dict(logger=dict(interval=25), checkpoint=dict(by_epoch=False, interval=110)))
log_processor = dict(by_epoch=False)
