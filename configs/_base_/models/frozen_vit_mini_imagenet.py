"""A frozen small ViT for probes of its features: run with tools/probe.py.

Features are those of the evaluation view (short side 72, centre 64), extracted once and kept.
"""

from mmengine.config import read_base

with read_base():
    from ..datasets.mini_imagenet import *
    from ..runtime import *

from cmae_mm.transfer.frozen_features import FrozenFeatures
from cmae_mm.transfer.imagenet import ImageNetViT

model = dict(
    type=FrozenFeatures,
    backbone=dict(
        type=ImageNetViT,
        arch=dict(embed_dims=128, num_layers=6, num_heads=4, feedforward_channels=512),
        img_size=64,
        patch_size=8,
        final_norm=True,
        backbone_file=None,
    ),
)
train_dataloader.update(batch_size=128)
train_dataloader["dataset"].update(pipeline=test_pipeline)
# seed: of random transforms; precision: of the encoder (float32, or bfloat16 and float16 on a GPU)
# also: parts that are extracted in the same pass, so that other probes find them
features = dict(
    views=1,
    seed=0,
    storage="float32",
    precision="float32",
    also=["cls-4", "cls-3", "cls-2", "cls-1", "avg-1"],
)
# take: 1%, 5-per-class or a file of names; None for all labels
subset = dict(take=None, seed=0, lists=None)
