"""Linear probe on ADE20K: batch norm and a 1 x 1 convolution on the patch features of a frozen ViT-B.

The form of DINOv2's linear segmentation: batch 16 = 8 GPUs x 2, AdamW 1e-3, 40,000 x 16 / 20,210 = 32 epochs,
sliding windows. Its own config was not at hand: docs/ade20k_evaluation.md tells what is not certain.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.datasets.ade20k_512 import *
    from .._base_.models.frozen_vit import *
    from .._base_.runtime import *

from mmengine.optim import LinearLR, OptimWrapper, PolyLR
from mmengine.runner import IterBasedTrainLoop
from torch.optim import AdamW

default_scope = "mmseg"
optim_wrapper = dict(
    type=OptimWrapper,
    optimizer=dict(type=AdamW, lr=1e-3, betas=(0.9, 0.999), weight_decay=1e-4),
)
param_scheduler = [
    dict(type=LinearLR, start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(type=PolyLR, eta_min=0.0, power=1.0, by_epoch=False, begin=1500, end=40000),
]
train_cfg = dict(type=IterBasedTrainLoop, max_iters=40000, val_interval=10000)
default_hooks.update(
    dict(checkpoint=dict(by_epoch=False, interval=10000, save_best="mIoU", rule="greater")),
)
log_processor = dict(by_epoch=False)
# Scales the learning rate when processes x batch_size is not 16; the number of iterations stays.
auto_scale_lr = dict(enable=True, base_batch_size=16)
