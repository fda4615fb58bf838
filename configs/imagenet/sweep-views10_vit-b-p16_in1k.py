"""DINOv2's sweep, ViT-B/16, on a fresh augmented view of each image in each of the 10 epochs: run with tools/probe.py.

Crops as torchvision draws them, bicubic, and flips: what DINOv2's code trains on.
Disk: 10 x 1,281,167 x 5 x 768 x 2 bytes = 98 GB in float16.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.models.frozen_vit_imagenet import *
    from .._base_.probes.sweep_cached import *

from mmpretrain.datasets import RandomResizedCrop

train_pipeline[1] = dict(type=RandomResizedCrop, scale=224, backend="pillow", interpolation="bicubic")
train_dataloader["dataset"].update(pipeline=train_pipeline)
features.update(views=10, storage="float16")
protocol = "IN-LIN-SWEEP-VIEWS10"
