"""A frozen ViT-B/16 for probes of its features on ImageNet-1k: run with tools/probe.py.

Features are those of the evaluation view (short side 256, centre 224), extracted once and kept. A part of 768 channels
takes 1,281,167 x 768 x 4 bytes = 3.9 GB for the training images in float32.
"""

from mmengine.config import read_base

with read_base():
    from ..datasets.imagenet_probe_224 import *
    from ..runtime import *

from cmae_mm.transfer.frozen_features import FrozenFeatures
from cmae_mm.transfer.imagenet import ImageNetViT

model = dict(
    type=FrozenFeatures,
    backbone=dict(
        type=ImageNetViT, arch="base", img_size=224, patch_size=16, final_norm=True, backbone_file=None
    ),
)
train_dataloader.update(batch_size=256)  # the encoder keeps no activations
val_dataloader.update(batch_size=256)
train_dataloader["dataset"].update(pipeline=test_pipeline)
# seed: of random transforms; precision: of the encoder (float32, or bfloat16 and float16 on a GPU)
# also: parts that are extracted in the same pass, so that other probes find them
features = dict(views=1, seed=0, storage="float32", precision="float32", also=[])
# take: 1%, 5-per-class or a file of names; None for all labels
# lists: folder of SimCLR's 1percent.txt and 10percent.txt
subset = dict(take=None, seed=0, lists=None)
