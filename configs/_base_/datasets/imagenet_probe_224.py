"""ImageNet-1k at 224 px, labelled, for frozen encoders: MAE's crop and flip; evaluation at short side 256, centre 224.

MAE draws its crop once and cuts it to the image, resizes bicubically, and changes no colours: jitter and mixup hurt a
linear layer (MAE, A.1). Images are read by Pillow, and not turned by their EXIF orientation.
"""

from mmengine.dataset import DefaultSampler, default_collate
from mmpretrain.datasets import CenterCrop, ImageNet, PackInputs, RandomFlip, ResizeEdge
from mmpretrain.evaluation import Accuracy

from cmae_mm.data.load_image import LoadImage
from cmae_mm.data.loop_free_crop import LoopFreeResizedCrop

data_root = "data/imagenet/"
# RGB with ImageNet statistics is what every backbone file is read for.
data_preprocessor = dict(
    num_classes=1000, mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True
)
load_image = dict(type=LoadImage)
train_pipeline = [
    load_image,
    dict(type=LoopFreeResizedCrop, scale=224, backend="pillow", interpolation="bicubic"),
    dict(type=RandomFlip, prob=0.5, direction="horizontal"),
    dict(type=PackInputs),
]
test_pipeline = [
    load_image,
    dict(type=ResizeEdge, scale=256, edge="short", backend="pillow", interpolation="bicubic"),
    dict(type=CenterCrop, crop_size=224),
    dict(type=PackInputs),
]
train_dataloader = dict(
    batch_size=512,
    num_workers=8,
    persistent_workers=True,
    pin_memory=True,
    drop_last=True,
    collate_fn=dict(type=default_collate),
    sampler=dict(type=DefaultSampler, shuffle=True),
    dataset=dict(type=ImageNet, data_root="data/imagenet/", split="train", pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=250,
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
