"""Nearest neighbours on the embedded ImageNet-style folder: run with tools/probe.py, nothing is trained."""

from mmengine.config import read_base

with read_base():
    from .._base_.models.frozen_vit_mini_imagenet import *

from cmae_mm.transfer.knn_probe import KNNProbe

probe = dict(
    type=KNNProbe,
    parts=["cls-1"],
    neighbours=[10, 20, 100, 200],
    temperatures=[0.07],
    main=20,
    standardize="none",
)
protocol = "mini-knn"
