"""MAE's linear probe on cached features, ViT-L/16: run with tools/probe.py."""

from mmengine.config import read_base

with read_base():
    from .._base_.models.frozen_vit_l_p16_imagenet import *
    from .._base_.probes.linear_cached import *
