"""Linear probe on cached features of the embedded ImageNet-style folder: MAE's recipe at a small batch.

90 epochs x 11 iterations (3,000 / 256) = 990 iterations, 10 epochs of warm-up. The rate is MAE's 0.1 x 16384 / 256 =
6.4, not scaled down with the batch: LARS makes steps relative to the weights, and here are few of them.
The mean patch token: probe.parts=[avg-1]. Few labels: subset.take=1%.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.models.frozen_vit_mini_imagenet import *

from cmae_mm.transfer.linear_probe import LinearProbe

probe = dict(
    type=LinearProbe,
    parts=["cls-1"],
    epochs=90,
    batch_size=256,
    base_lr=0.1 * 16384 / 256,
    warmup=10,
    by_epoch=False,
    val_interval=10,
    min_steps=900,
    optimizer="lars",
    momentum=0.9,
    weight_decay=0.0,
    batch_norm=True,
    std=0.01,
)
protocol = "mini-linear-cached"
