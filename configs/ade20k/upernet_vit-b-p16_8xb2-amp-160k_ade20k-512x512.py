"""UperNet on ViT-B, ADE20K at 512 px, 160k iterations, single scale, sliding windows (MAE gives 48.1).

Batch 16 = 8 GPUs x 2. 160,000 iterations x 16 / 20,210 images = 127 epochs.
Mixed precision is on (mmseg's config of this name leaves it off).
"""

from mmengine.config import read_base

with read_base():
    from .._base_.datasets.ade20k_512 import *
    from .._base_.models.upernet_vit import *
    from .._base_.runtime import *

from mmengine.optim import AmpOptimWrapper, LinearLR, PolyLR
from mmengine.runner import IterBasedTrainLoop
from torch.optim import AdamW

from cmae_mm.transfer.layer_decay import LayerDecayConstructor

default_scope = "mmseg"
optim_wrapper = dict(
    type=AmpOptimWrapper,
    optimizer=dict(type=AdamW, lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
    constructor=LayerDecayConstructor,
    # BEiT's rule, under which 48.1 was reached: vectors and biases are exempt, position table, class token
    # and relative-position tables decay.
    paramwise_cfg=dict(layer_decay_rate=0.65, no_decay=("ndim1",)),
)
param_scheduler = [
    dict(type=LinearLR, start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(type=PolyLR, eta_min=0.0, power=1.0, by_epoch=False, begin=1500, end=160000),
]
train_cfg = dict(type=IterBasedTrainLoop, max_iters=160000, val_interval=16000)
default_hooks.update(
    dict(
        checkpoint=dict(by_epoch=False, interval=16000, save_best="mIoU", rule="greater"),
    )
)
log_processor = dict(by_epoch=False)
# Scales the learning rate when processes x batch_size is not 16; the number of iterations stays.
auto_scale_lr = dict(enable=True, base_batch_size=16)
