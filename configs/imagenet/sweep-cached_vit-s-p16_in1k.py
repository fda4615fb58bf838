"""DINOv2's sweep of linear layers on cached features, ViT-S/16: run with tools/probe.py."""

from mmengine.config import read_base

with read_base():
    from .._base_.models.frozen_vit_s_p16_imagenet import *
    from .._base_.probes.sweep_cached import *
