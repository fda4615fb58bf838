"""UperNet on a small ViT with any folder in ADE20K layout (--data-root), for minutes on a CPU.

The classes are those of the folder's classes.txt. The heads have 39, as the NYUv2 set has; for another number add
--cfg-options model.decode_head.num_classes=K model.auxiliary_head.num_classes=K
240 iterations x 8 / 795 images = 2.4 epochs.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.datasets.segmentation_folder import *
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
            pretrain_img_size=64,
            out_indices=(1, 2, 4, 5),
            drop_path_rate=0.0,
        ),
        neck=dict(embed_dim=128, rescales=[2, 1, 0.5, 0.25]),
        decode_head=dict(in_channels=[128, 128, 128, 128], channels=64, num_classes=39),
        auxiliary_head=dict(in_channels=128, channels=64, num_classes=39),
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
    dict(type=LinearLR, start_factor=0.01, by_epoch=False, begin=0, end=20),
    dict(type=PolyLR, eta_min=0.0, power=1.0, by_epoch=False, begin=20, end=240),
]
train_cfg = dict(type=IterBasedTrainLoop, max_iters=240, val_interval=240)
default_hooks.update(dict(logger=dict(interval=20), checkpoint=dict(by_epoch=False, interval=60)))
log_processor = dict(by_epoch=False)
