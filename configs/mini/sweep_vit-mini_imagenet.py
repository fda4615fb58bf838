"""A sweep of linear layers on cached features of the embedded ImageNet-style folder: 13 rates x 2 x 2 = 52 layers.

10 epochs x 23 iterations (2,970 / 128) = 230 iterations; 1 % of the training images choose the layer.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.models.frozen_vit_mini_imagenet import *

from cmae_mm.transfer.sweep_probe import SweepProbe

probe = dict(
    type=SweepProbe,
    rates=[1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.2, 0.3, 0.5],  # DINOv2's paper, B.3
    blocks=[1, 4],
    pooling=[False, True],
    epochs=10,
    batch_size=128,
    val_interval=None,
    min_steps=200,
    batch_norm=True,
    share=0.01,
)
protocol = "mini-sweep"
