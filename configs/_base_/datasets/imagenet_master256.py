"""ImageNet-1k for CMAE: one 256 px master crop for each image; flip and views are made on the device (docs/data.md)."""

from mmengine.dataset import default_collate

from cmae_mm.data.masters import MasterImages
from cmae_mm.data.sampler import EpochSampler

data_root = "data/imagenet/"
train_dataloader = dict(
    batch_size=128,
    num_workers=8,
    persistent_workers=True,
    pin_memory=True,
    sampler=dict(type=EpochSampler, shuffle=True),
    collate_fn=dict(type=default_collate),
    dataset=dict(
        type=MasterImages,
        data_root="data/imagenet/",
        split="train",
        size=256,  # 224 + 32: room for shifts of 0 to 31 pixels
        crop="random",
        scale=(0.2, 1.0),
        ratio=(3 / 4, 4 / 3),
        max_broken=0.001,
        upright=False,
    ),
)
