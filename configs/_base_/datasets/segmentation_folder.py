"""A folder in ADE20K layout with its own class list (classes.txt), small: images of 144 x 108, crops of 96 px.

images/training/<name>.jpg    annotations/training/<name>.png    and the same under validation/
"""

from mmcv.transforms import LoadImageFromFile, RandomFlip, RandomResize
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmseg.datasets.transforms import LoadAnnotations, PackSegInputs, RandomCrop, Resize

from cmae_mm.transfer.ade20k_data import SegmentationFolder
from cmae_mm.transfer.segmentation_metric import CMAESegMetric

data_root = "data/segmentation/"
train_pipeline = [
    dict(type=LoadImageFromFile),
    dict(type=LoadAnnotations),
    dict(type=RandomResize, scale=(144, 108), ratio_range=(0.75, 1.5), resize_type=Resize, keep_ratio=True),
    dict(type=RandomCrop, crop_size=(96, 96), cat_max_ratio=0.75),
    dict(type=RandomFlip, prob=0.5),
    dict(type=PackSegInputs),
]
# Labels are loaded after the resize: scores are computed at the size of the original.
test_pipeline = [
    dict(type=LoadImageFromFile),
    dict(type=Resize, scale=(144, 108), keep_ratio=True),
    dict(type=LoadAnnotations),
    dict(type=PackSegInputs),
]
train_dataloader = dict(
    batch_size=8,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type=InfiniteSampler, shuffle=True),
    dataset=dict(
        type=SegmentationFolder,
        data_root="data/segmentation/",
        data_prefix=dict(img_path="images/training", seg_map_path="annotations/training"),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type=DefaultSampler, shuffle=False),
    dataset=dict(
        type=SegmentationFolder,
        data_root="data/segmentation/",
        data_prefix=dict(img_path="images/validation", seg_map_path="annotations/validation"),
        pipeline=test_pipeline,
    ),
)
val_evaluator = dict(type=CMAESegMetric, iou_metrics=["mIoU"])
test_dataloader = val_dataloader
test_evaluator = val_evaluator
val_cfg = dict()
test_cfg = dict()
