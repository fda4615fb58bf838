"""ImageNet-1k for MAE: one 224 px random resized crop of each image; the flip is made on the device (docs/data.md)."""

from mmengine.config import read_base

with read_base():
    from .imagenet_master256 import *

train_dataloader["dataset"].update(size=224)  # the size of the view: nothing is cut from it later
