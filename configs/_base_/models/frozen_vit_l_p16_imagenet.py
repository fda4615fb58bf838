"""A frozen ViT-L/16: width 1024, 24 blocks, 16 heads, for probes of its features on ImageNet-1k."""

from mmengine.config import read_base

with read_base():
    from .frozen_vit_imagenet import *

model["backbone"].update(arch="large")
