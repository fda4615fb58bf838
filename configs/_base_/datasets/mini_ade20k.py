"""The embedded segmentation set in ADE20K's layout: 400 training and 100 validation images, 10 classes.

Images are 128 px wide and 96 to 128 px high.
"""

from mmcv.transforms import LoadImageFromFile, RandomFlip, RandomResize, TestTimeAug
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmseg.datasets import BaseSegDataset
from mmseg.datasets.transforms import LoadAnnotations, PackSegInputs, RandomCrop, Resize

from cmae_mm.transfer.segmentation_metric import CMAESegMetric

data_root = "data/mini/ade20k/"
metainfo = dict(  # data.taxonomy.CLASSES_ADE20K
    classes=("sky", "wall", "ground", "water", "grass", "house", "tree", "car", "fish", "cup"),
)
train_pipeline = [
    dict(type=LoadImageFromFile),
    dict(type=LoadAnnotations),
    dict(type=RandomResize, scale=(128, 128), ratio_range=(0.75, 1.5), resize_type=Resize, keep_ratio=True),
    dict(type=RandomCrop, crop_size=(96, 96), cat_max_ratio=0.9),
    dict(type=RandomFlip, prob=0.5),
    dict(type=PackSegInputs),
]
# Scores are computed on the whole image at its own size.
test_pipeline = [dict(type=LoadImageFromFile), dict(type=LoadAnnotations), dict(type=PackSegInputs)]
tta_pipeline = [
    dict(type=LoadImageFromFile),
    dict(
        type=TestTimeAug,
        transforms=[
            [dict(type=Resize, scale_factor=r, keep_ratio=True) for r in (0.75, 1.0, 1.5)],
            [dict(type=RandomFlip, prob=0.0), dict(type=RandomFlip, prob=1.0)],
            [dict(type=LoadAnnotations)],
            [dict(type=PackSegInputs)],
        ],
    ),
]
train_dataloader = dict(
    batch_size=8,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type=InfiniteSampler, shuffle=True),
    dataset=dict(
        type=BaseSegDataset,
        data_root="data/mini/ade20k/",
        metainfo=metainfo,
        reduce_zero_label=True,
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
        type=BaseSegDataset,
        data_root="data/mini/ade20k/",
        metainfo=metainfo,
        reduce_zero_label=True,
        data_prefix=dict(img_path="images/validation", seg_map_path="annotations/validation"),
        pipeline=test_pipeline,
    ),
)
val_evaluator = dict(type=CMAESegMetric, iou_metrics=["mIoU"])
test_dataloader = val_dataloader
test_evaluator = val_evaluator
val_cfg = dict()
test_cfg = dict()
