"""ImageNet-1k for CMAE: one flipped 256 px master crop for each image; the views are made on the device."""

from mmengine.dataset import DefaultSampler, default_collate
from mmpretrain.datasets import ImageNet, LoadImageFromFile, PackInputs, RandomFlip, RandomResizedCrop

data_root = "data/imagenet/"
train_pipeline = [
    dict(type=LoadImageFromFile),  # BGR, which CMAEDataPreprocessor expects
    dict(
        type=RandomResizedCrop,
        scale=256,
        crop_ratio_range=(0.2, 1.0),
        backend="pillow",
        interpolation="bicubic",
    ),
    dict(type=RandomFlip, prob=0.5),
    dict(type=PackInputs),
]
train_dataloader = dict(
    batch_size=128,
    num_workers=8,
    persistent_workers=True,
    pin_memory=True,
    sampler=dict(type=DefaultSampler, shuffle=True),
    collate_fn=dict(type=default_collate),
    dataset=dict(type=ImageNet, data_root="data/imagenet/", split="train", pipeline=train_pipeline),
)
