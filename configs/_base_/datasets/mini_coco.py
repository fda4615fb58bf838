"""The embedded detection set in COCO's layout: 400 training and 100 validation images of 128 to 160 px.

Images are brought to at most 96 px; the model pads them to 96 x 96.
"""

from mmcv.transforms import LoadImageFromFile, RandomResize
from mmdet.datasets import CocoDataset
from mmdet.datasets.transforms import FilterAnnotations, PackDetInputs, RandomCrop, RandomFlip, Resize
from mmengine.dataset import DefaultSampler, InfiniteSampler

from cmae_mm.transfer.coco_data import LoadPolygons
from cmae_mm.transfer.coco_metric import CMAECocoMetric

data_root = "data/mini/coco/"
metainfo = dict(classes=("car", "cup", "fish", "house", "key", "star"))  # data.taxonomy.CLASSES_COCO
train_pipeline = [
    dict(type=LoadImageFromFile),
    dict(type=LoadPolygons),
    dict(type=RandomFlip, prob=0.5),
    dict(
        type=RandomResize,
        scale=(96, 96),
        ratio_range=(0.8, 1.25),
        resize_type=Resize,
        keep_ratio=True,
        backend="pillow",
    ),
    dict(
        type=RandomCrop,
        crop_type="absolute",
        crop_size=(96, 96),
        recompute_bbox=True,
        allow_negative_crop=True,
    ),
    dict(type=FilterAnnotations, min_gt_bbox_wh=(1e-5, 1e-5), keep_empty=False),
    dict(type=PackDetInputs),
]
test_pipeline = [
    dict(type=LoadImageFromFile),
    dict(type=Resize, scale=(96, 96), keep_ratio=True, backend="pillow"),
    dict(type=PackDetInputs, meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
]
train_dataloader = dict(
    batch_size=8,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type=InfiniteSampler, shuffle=True),
    dataset=dict(
        type=CocoDataset,
        data_root="data/mini/coco/",
        metainfo=metainfo,
        ann_file="annotations/instances_train2017.json",
        data_prefix=dict(img="train2017/"),
        filter_cfg=dict(filter_empty_gt=True, min_size=32),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=10,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type=DefaultSampler, shuffle=False),
    dataset=dict(
        type=CocoDataset,
        data_root="data/mini/coco/",
        metainfo=metainfo,
        ann_file="annotations/instances_val2017.json",
        data_prefix=dict(img="val2017/"),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
val_evaluator = dict(
    type=CMAECocoMetric,
    ann_file="data/mini/coco/annotations/instances_val2017.json",
    metric=["bbox", "segm"],
)
test_dataloader = val_dataloader
test_evaluator = val_evaluator
val_cfg = dict()
test_cfg = dict()
