"""Nearest neighbours of patches on the embedded set, frozen small ViT: run with tools/dense_knn.py.

20,000 / 400 = 50 patches of one 96 px crop (12 x 12 patches) of each training image.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.datasets.mini_ade20k import *
    from .._base_.models.frozen_vit import *
    from .._base_.runtime import *

from cmae_mm.transfer.dense_probe import DenseKNNHead, FillMemoryHook

default_scope = "mmseg"
model.update(
    dict(
        data_preprocessor=dict(size=(96, 96)),
        backbone=dict(
            img_size=96,
            patch_size=8,
            embed_dims=128,
            depth=6,
            num_heads=4,
            pretrain_img_size=64,
            out_indices=(5,),
        ),
    )
)
model.decode_head = dict(
    type=DenseKNNHead,
    in_channels=128,
    in_index=0,
    num_classes=10,
    patch_size=8,
    neighbours=30,
    temperature=0.02,
    align_corners=False,
    loss_decode=dict(type=CrossEntropyLoss, use_sigmoid=False, loss_weight=1.0),
)
model.test_cfg = dict(mode="whole")
memory_pipeline = [
    dict(type=LoadImageFromFile),
    dict(type=LoadAnnotations),
    dict(type=RandomCrop, crop_size=(96, 96)),
    dict(type=PackSegInputs),
]
memory_dataloader = train_dataloader
memory_dataloader.update(
    sampler=dict(type=DefaultSampler, shuffle=False, round_up=False),
    dataset=dict(pipeline=memory_pipeline),
)
train_dataloader = None
custom_hooks = [dict(type=FillMemoryHook, dataloader=memory_dataloader, patches=20_000)]
