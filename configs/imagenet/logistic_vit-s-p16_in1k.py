"""Logistic regression, ViT-S/16, short side 224 in place of 256 as DINOv2 has it: run with tools/probe.py."""

from mmengine.config import read_base

with read_base():
    from .._base_.models.frozen_vit_s_p16_imagenet import *
    from .._base_.probes.logistic import *

test_pipeline[1].update(scale=224)
train_dataloader["dataset"].update(pipeline=test_pipeline)
val_dataloader["dataset"].update(pipeline=test_pipeline)
