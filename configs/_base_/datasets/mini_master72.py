"""The embedded ImageNet-style folder for CMAE at 64 px: 3,000 images as 72 px master crops."""

from mmengine.dataset import default_collate

from cmae_mm.data.masters import MasterImages
from cmae_mm.data.sampler import EpochSampler

data_root = "data/mini/imagenet/"
train_dataloader = dict(
    batch_size=32,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type=EpochSampler, shuffle=True),
    collate_fn=dict(type=default_collate),
    dataset=dict(
        type=MasterImages,
        data_root="data/mini/imagenet/",
        split="train",
        size=72,  # 64 + 8: room for shifts of 0 to 7 pixels
        crop="random",
        scale=(0.2, 1.0),
        ratio=(3 / 4, 4 / 3),
        max_broken=0,  # these images are made by the suite: a broken one is a mistake
    ),
)
