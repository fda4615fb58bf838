"""Nearest neighbours of patches on ADE20K, frozen ViT-B: run with tools/dense_knn.py, nothing is trained.

The memory holds 1,024,000 / 20,210 = 50 patches of one 512 px crop of each training image. The largest memory of
Hummingbird is 10,240,000 (custom_hooks.0.patches=10240000: 16 GB of features in float16).
"""

from mmengine.config import read_base

with read_base():
    from .._base_.datasets.ade20k_512 import *
    from .._base_.models.frozen_vit import *
    from .._base_.runtime import *

from cmae_mm.transfer.dense_probe import DenseKNNHead, FillMemoryHook

default_scope = "mmseg"
model.decode_head = dict(
    type=DenseKNNHead,
    in_channels=768,
    in_index=0,
    num_classes=150,
    patch_size=16,
    neighbours=30,
    temperature=0.02,
    half=True,
    align_corners=False,
    loss_decode=dict(type=CrossEntropyLoss, use_sigmoid=False, loss_weight=1.0),
)
memory_pipeline = [
    dict(type=LoadImageFromFile),
    dict(type=LoadAnnotations),
    dict(type=Resize, scale=(2048, 512), keep_ratio=True),
    dict(type=RandomCrop, crop_size=(512, 512)),
    dict(type=PackSegInputs),
]
memory_dataloader = train_dataloader
memory_dataloader.update(
    batch_size=16,
    sampler=dict(type=DefaultSampler, shuffle=False, round_up=False),
    dataset=dict(pipeline=memory_pipeline),
)
train_dataloader = None
custom_hooks = [dict(type=FillMemoryHook, dataloader=memory_dataloader, patches=1_024_000)]
