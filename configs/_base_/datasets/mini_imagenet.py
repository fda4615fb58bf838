"""The embedded ImageNet-style folder at 64 px, labelled: 3,000 training and 500 validation images."""

from mmengine.dataset import DefaultSampler, default_collate
from mmpretrain.datasets import CustomDataset, PackInputs, RandomFlip
from mmpretrain.datasets import CenterCrop, RandomResizedCrop, ResizeEdge
from mmpretrain.evaluation import Accuracy

from cmae_mm.data.load_image import LoadImage

data_root = "data/mini/imagenet/"
# RGB with ImageNet statistics is what every backbone file is read for.
data_preprocessor = dict(
    num_classes=10, mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True
)
train_pipeline = [
    dict(type=LoadImage),
    dict(
        type=RandomResizedCrop,
        scale=64,
        crop_ratio_range=(0.35, 1.0),
        backend="pillow",
        interpolation="bicubic",
    ),
    dict(type=RandomFlip, prob=0.5, direction="horizontal"),
    dict(type=PackInputs),
]
test_pipeline = [
    dict(type=LoadImage),
    dict(type=ResizeEdge, scale=72, edge="short", backend="pillow", interpolation="bicubic"),
    dict(type=CenterCrop, crop_size=64),
    dict(type=PackInputs),
]
train_dataloader = dict(
    batch_size=32,
    num_workers=1,
    persistent_workers=True,
    collate_fn=dict(type=default_collate),
    sampler=dict(type=DefaultSampler, shuffle=True),
    dataset=dict(
        type=CustomDataset, data_root="data/mini/imagenet/", data_prefix="train", pipeline=train_pipeline
    ),
)
val_dataloader = dict(
    batch_size=100,
    num_workers=1,
    persistent_workers=True,
    collate_fn=dict(type=default_collate),
    sampler=dict(type=DefaultSampler, shuffle=False),
    dataset=dict(
        type=CustomDataset, data_root="data/mini/imagenet/", data_prefix="val", pipeline=test_pipeline
    ),
)
val_evaluator = dict(type=Accuracy, topk=(1, 5), thrs=None)  # argmax, without a threshold
test_dataloader = val_dataloader
test_evaluator = val_evaluator
val_cfg = dict()
test_cfg = dict()
