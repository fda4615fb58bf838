"""pretrain_runtime.py, and every 20 epochs a kNN probe and reconstructions on ImageNet's validation images.

50 x 1,000 training images vote on 10 x 1,000 validation images. Without validation images:
`--cfg-options default_hooks.knn=None default_hooks.reconstruction=None`.
"""

from mmengine.config import read_base

from cmae_mm.data.masters import MasterImages
from cmae_mm.pretrain.monitor import KNNProbeHook, ReconstructionHook

with read_base():
    from .pretrain_runtime import *

held_out = dict(
    type=MasterImages, data_root="data/imagenet/", split="val", size=224, crop="center", upright=False
)
default_hooks.update(
    knn=dict(
        type=KNNProbeHook,
        bank=dict(held_out, split="train", per_class=50),
        queries=dict(held_out, per_class=10),
        interval=20,
        num_workers=8,
    ),
    reconstruction=dict(type=ReconstructionHook, images=dict(held_out), interval=20),
)
