"""COCO 2017 instances at many sizes, as DETR and after it CAE and iBOT train: short side 480 to 800, long side up
to 1333.

Half of the images are first resized to a short side of 400 to 600 and cropped. Images of like aspect share a batch.
"""

from mmengine.config import read_base

with read_base():
    from .coco_lsj import *

from mmcv.transforms import LoadImageFromFile, RandomChoice, RandomChoiceResize
from mmdet.datasets import AspectRatioBatchSampler
from mmdet.datasets.transforms import FilterAnnotations, PackDetInputs, RandomCrop
from mmdet.datasets.transforms import RandomFlip, Resize
from mmengine.dataset import DefaultSampler

from cmae_mm.transfer.coco_data import LoadPolygons

short_sides = [480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800]
resize = dict(
    type=RandomChoiceResize,
    scales=[(side, 1333) for side in short_sides],
    resize_type=Resize,
    keep_ratio=True,
)
train_pipeline = [
    dict(type=LoadImageFromFile),
    dict(type=LoadPolygons),
    dict(type=RandomFlip, prob=0.5),
    dict(
        type=RandomChoice,
        transforms=[
            [resize],
            [
                dict(
                    type=RandomChoiceResize,
                    scales=[(400, 1333), (500, 1333), (600, 1333)],
                    resize_type=Resize,
                    keep_ratio=True,
                ),
                dict(
                    type=RandomCrop,
                    crop_type="absolute_range",
                    crop_size=(384, 600),
                    allow_negative_crop=True,
                ),
                resize,
            ],
        ],
    ),
    dict(type=FilterAnnotations, min_gt_bbox_wh=(1e-2, 1e-2), keep_empty=False),
    dict(type=PackDetInputs),
]
test_pipeline = [
    dict(type=LoadImageFromFile),
    dict(type=Resize, scale=(1333, 800), keep_ratio=True),
    dict(type=PackDetInputs, meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
]
train_dataloader["batch_size"] = 2
train_dataloader["sampler"] = dict(type=DefaultSampler, shuffle=True)
train_dataloader["batch_sampler"] = dict(type=AspectRatioBatchSampler)
train_dataloader["dataset"]["pipeline"] = train_pipeline
val_dataloader["dataset"]["pipeline"] = test_pipeline
test_dataloader = val_dataloader
