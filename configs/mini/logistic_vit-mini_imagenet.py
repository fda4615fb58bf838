"""Logistic regression on cached features of the embedded ImageNet-style folder: run with tools/probe.py.

12 strengths in place of DINOv2's 45.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.models.frozen_vit_mini_imagenet import *

from cmae_mm.transfer.logistic_probe import LogisticProbe

probe = dict(
    type=LogisticProbe,
    parts=["cls-1"],
    strengths=[10.0**n for n in range(-6, 6)],
    max_iter=300,
    tolerance=1e-12,
    share=0.1,
)
protocol = "mini-logistic"
