"""ImageNet-1k at 224 px, labelled, with the augmentation that MAE and CMAE fine-tune with; mixup and cutmix: the model.

What differs from timm's RandAugment and erasing, behind MAE's numbers (docs/imagenet.md): operations by OpenCV instead
of Pillow, erased pixels clipped to 0..255. CMAE's own numbers were made with what is used here.
"""

from mmengine.dataset import DefaultSampler, default_collate
from mmpretrain.datasets import CenterCrop, ImageNet, PackInputs, RandAugment, RandomErasing, RandomFlip
from mmpretrain.datasets import RandomResizedCrop, ResizeEdge
from mmpretrain.evaluation import Accuracy

from cmae_mm.data.load_image import LoadImage

data_root = "data/imagenet/"
# RGB with ImageNet statistics is what every backbone file is read for.
data_preprocessor = dict(
    num_classes=1000, mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True
)
train_pipeline = [
    dict(type=LoadImage),
    dict(
        type=RandomResizedCrop, scale=224, backend="pillow", interpolation="bicubic"
    ),  # 0.08 to 1 of the area
    dict(type=RandomFlip, prob=0.5, direction="horizontal"),
    # rand-m9-mstd0.5-inc1; images are BGR here
    dict(
        type=RandAugment,
        policies="timm_increasing",
        num_policies=2,
        total_level=10,
        magnitude_level=9,
        magnitude_std=0.5,
        hparams=dict(pad_val=[104, 116, 124], interpolation="bicubic"),
    ),
    # noise of the image statistics, pixel by pixel
    dict(
        type=RandomErasing,
        erase_prob=0.25,
        mode="rand",
        min_area_ratio=0.02,
        max_area_ratio=1 / 3,
        fill_color=[103.53, 116.28, 123.675],
        fill_std=[57.375, 57.12, 58.395],
    ),
    dict(type=PackInputs),
]
test_pipeline = [
    dict(type=LoadImage),
    dict(type=ResizeEdge, scale=256, edge="short", backend="pillow", interpolation="bicubic"),
    dict(type=CenterCrop, crop_size=224),
    dict(type=PackInputs),
]
train_dataloader = dict(
    batch_size=128,
    num_workers=8,
    persistent_workers=True,
    pin_memory=True,
    drop_last=True,
    collate_fn=dict(type=default_collate),
    sampler=dict(type=DefaultSampler, shuffle=True),
    dataset=dict(type=ImageNet, data_root="data/imagenet/", split="train", pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=125,
    num_workers=8,
    persistent_workers=True,
    pin_memory=True,
    collate_fn=dict(type=default_collate),
    sampler=dict(type=DefaultSampler, shuffle=False),
    dataset=dict(type=ImageNet, data_root="data/imagenet/", split="val", pipeline=test_pipeline),
)
val_evaluator = dict(type=Accuracy, topk=(1, 5), thrs=None)  # argmax, without a threshold
test_dataloader = val_dataloader
test_evaluator = val_evaluator
val_cfg = dict()
test_cfg = dict()
