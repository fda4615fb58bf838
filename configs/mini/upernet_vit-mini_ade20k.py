"""UperNet on a small ViT with the embedded segmentation set: minutes on two CPU cores.

The full recipe at a small size; the patch is half as large, so the pyramid is too (strides 4 to 32).
220 iterations x 8 / 400 images = 4.4 epochs.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.datasets.mini_ade20k import *
    from .._base_.models.upernet_vit import *
    from .._base_.runtime import *

from mmengine.optim import LinearLR, OptimWrapper, PolyLR
from mmengine.runner import IterBasedTrainLoop
from torch.optim import AdamW

from cmae_mm.transfer.layer_decay import LayerDecayConstructor

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
            out_indices=(1, 2, 4, 5),
            drop_path_rate=0.0,
        ),
        neck=dict(embed_dim=128, rescales=[2, 1, 0.5, 0.25]),
        decode_head=dict(in_channels=[128, 128, 128, 128], channels=64, num_classes=10),
        auxiliary_head=dict(in_channels=128, channels=64, num_classes=10),
    )
)
model.test_cfg = dict(mode="whole")
optim_wrapper = dict(
    type=OptimWrapper,
    optimizer=dict(type=AdamW, lr=2e-3, betas=(0.9, 0.999), weight_decay=0.05),
    constructor=LayerDecayConstructor,
    paramwise_cfg=dict(layer_decay_rate=0.9, no_decay=("ndim1",)),
)
param_scheduler = [
    dict(type=LinearLR, start_factor=0.01, by_epoch=False, begin=0, end=15),
    dict(type=PolyLR, eta_min=0.0, power=1.0, by_epoch=False, begin=15, end=220),
]
train_cfg = dict(type=IterBasedTrainLoop, max_iters=220, val_interval=220)
default_hooks.update(dict(logger=dict(interval=25), checkpoint=dict(by_epoch=False, interval=110)))
log_processor = dict(by_epoch=False)
