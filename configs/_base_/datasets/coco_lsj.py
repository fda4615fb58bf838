"""COCO 2017 instances with large-scale jitter at 1024 px, as in ViTDet (detectron2, coco_loader_lsj.py)."""

from mmcv.transforms import LoadImageFromFile, RandomResize
from mmdet.datasets import CocoDataset
from mmdet.datasets.transforms import FilterAnnotations, PackDetInputs, RandomCrop, RandomFlip, Resize

from mmengine.dataset import DefaultSampler, InfiniteSampler

from cmae_mm.transfer.coco_data import LoadPolygons
from cmae_mm.transfer.coco_metric import CMAECocoMetric

data_root = "data/coco/"
# Flip, zoom by 0.1 to 2.0, cut out at most 1024 x 1024; small images stay small, and the model pads them after
# normalisation, so with the mean colour. As in detectron2: Pillow's resize, which smooths when it shrinks; masks stay
# polygons, and boxes are taken from what the crop leaves of them; crowd regions are left out; a crop without
# objects is kept as a negative (keep_empty=True would draw another image).
train_pipeline = [
    dict(type=LoadImageFromFile),
    dict(type=LoadPolygons),
    dict(type=RandomFlip, prob=0.5),
    dict(
        type=RandomResize,
        scale=(1024, 1024),
        ratio_range=(0.1, 2.0),
        resize_type=Resize,
        keep_ratio=True,
        backend="pillow",
    ),
    dict(
        type=RandomCrop,
        crop_type="absolute",
        crop_size=(1024, 1024),
        recompute_bbox=True,
        allow_negative_crop=True,
    ),
    dict(type=FilterAnnotations, min_gt_bbox_wh=(1e-5, 1e-5), keep_empty=False),
    dict(type=PackDetInputs),
]
# No annotations: the evaluator reads them from the file.
test_pipeline = [
    dict(type=LoadImageFromFile),
    dict(type=Resize, scale=(1024, 1024), keep_ratio=True, backend="pillow"),
    dict(type=PackDetInputs, meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
]
train_dataloader = dict(
    batch_size=4,  # 16 GPUs x 4 = 64
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type=InfiniteSampler, shuffle=True),
    dataset=dict(
        type=CocoDataset,
        data_root="data/coco/",
        ann_file="annotations/instances_train2017.json",
        data_prefix=dict(img="train2017/"),
        filter_cfg=dict(filter_empty_gt=True, min_size=32),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type=DefaultSampler, shuffle=False),
    dataset=dict(
        type=CocoDataset,
        data_root="data/coco/",
        ann_file="annotations/instances_val2017.json",
        data_prefix=dict(img="val2017/"),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
# The compiled evaluator: the same twelve numbers as pycocotools with at most 100 boxes an image.
val_evaluator = dict(
    type=CMAECocoMetric,
    ann_file="data/coco/annotations/instances_val2017.json",
    metric=["bbox", "segm"],
)
test_dataloader = val_dataloader
test_evaluator = val_evaluator
val_cfg = dict()
test_cfg = dict()
