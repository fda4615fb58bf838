"""UperNet on a small ViT with the embedded segmentation set: minutes on two CPU cores.

The full recipe at a small size, with the same patch and pyramid.
150 iterations x 8 / 400 images = 3 epochs.
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
        data_preprocessor=dict(size=(128, 128)),
        backbone=dict(
            img_size=128,
            patch_size=16,
            embed_dims=128,
            depth=6,
            num_heads=4,
            pretrain_img_size=96,
            out_indices=(1, 2, 4, 5),
            drop_path_rate=0.0,
        ),
        neck=dict(embed_dim=128, rescales=[4, 2, 1, 0.5]),
        decode_head=dict(in_channels=[128, 128, 128, 128], channels=64, num_classes=10),
        auxiliary_head=dict(in_channels=128, channels=64, num_classes=10),
    )
)
model.test_cfg = dict(mode="whole")
optim_wrapper = dict(
    type=OptimWrapper,
    optimizer=dict(type=AdamW, lr=1e-3, betas=(0.9, 0.999), weight_decay=0.05),
    constructor=LayerDecayConstructor,
    paramwise_cfg=dict(layer_decay_rate=0.75, no_decay=("ndim1",)),
)
param_scheduler = [
    dict(type=LinearLR, start_factor=0.01, by_epoch=False, begin=0, end=15),
    dict(type=PolyLR, eta_min=0.0, power=1.0, by_epoch=False, begin=15, end=150),
]
train_cfg = dict(type=IterBasedTrainLoop, max_iters=150, val_interval=150)
default_hooks.update(dict(logger=dict(interval=20), checkpoint=dict(by_epoch=False, interval=150)))
log_processor = dict(by_epoch=False)
