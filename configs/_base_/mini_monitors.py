"""pretrain_runtime.py, and every 4 epochs a kNN probe and reconstructions: 100 x 10 images vote on 500."""

from mmengine.config import read_base

from cmae_mm.data.masters import MasterImages
from cmae_mm.pretrain.monitor import KNNProbeHook, ReconstructionHook

with read_base():
    from .pretrain_runtime import *

held_out = dict(type=MasterImages, data_root="data/mini/imagenet/", split="val", size=64, crop="center")
default_hooks.update(
    knn=dict(
        type=KNNProbeHook,
        bank=dict(held_out, split="train", per_class=100),
        queries=dict(held_out, per_class=50),
        interval=4,
    ),
    reconstruction=dict(type=ReconstructionHook, images=dict(held_out), interval=4),
    checkpoint=dict(interval=4),
)
