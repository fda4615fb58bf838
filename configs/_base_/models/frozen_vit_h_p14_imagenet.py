"""A frozen ViT-H/14: width 1280, 32 blocks, 16 heads, for probes of its features on ImageNet-1k."""

from mmengine.config import read_base

with read_base():
    from .frozen_vit_imagenet import *

model["backbone"].update(arch="huge", patch_size=14)
