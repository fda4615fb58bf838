"""A frozen ViT-S/16: width 384, 12 blocks, 6 heads, for probes of its features on ImageNet-1k."""

from mmengine.config import read_base

with read_base():
    from .frozen_vit_imagenet import *

model["backbone"].update(arch="deit-small")
