"""The embedded ImageNet-style folder for CMAE at 64 px: 3,000 images, 72 px master crops, labels not read."""

from mmengine.dataset import DefaultSampler, default_collate
from mmpretrain.datasets import CustomDataset, LoadImageFromFile, PackInputs, RandomFlip, RandomResizedCrop

data_root = "data/mini/imagenet/"
train_pipeline = [
    dict(type=LoadImageFromFile),
    dict(
        type=RandomResizedCrop,
        scale=72,
        crop_ratio_range=(0.2, 1.0),
        backend="pillow",
        interpolation="bicubic",
    ),
    dict(type=RandomFlip, prob=0.5),
    dict(type=PackInputs),
]
train_dataloader = dict(
    batch_size=32,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type=DefaultSampler, shuffle=True),
    collate_fn=dict(type=default_collate),
    dataset=dict(
        type=CustomDataset,
        data_root="data/mini/imagenet/",
        data_prefix="train",
        with_label=False,
        pipeline=train_pipeline,
    ),
)
