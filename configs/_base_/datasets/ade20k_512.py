"""ADE20K, 150 classes, 512 px crops (mmseg, _base_/datasets/ade20k.py)."""

from mmcv.transforms import LoadImageFromFile, RandomFlip, RandomResize, TestTimeAug
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmseg.datasets import ADE20KDataset
from mmseg.datasets.transforms import (
    LoadAnnotations,
    PackSegInputs,
    PhotoMetricDistortion,
    RandomCrop,
    Resize,
)

from cmae_mm.transfer.segmentation_metric import CMAESegMetric

data_root = "data/ade/ADEChallengeData2016/"
# The dataset maps 0 (void) to 255 and 1..150 to 0..149.
train_pipeline = [
    dict(type=LoadImageFromFile),
    dict(type=LoadAnnotations),
    dict(type=RandomResize, scale=(2048, 512), ratio_range=(0.5, 2.0), resize_type=Resize, keep_ratio=True),
    dict(type=RandomCrop, crop_size=(512, 512), cat_max_ratio=0.75),
    dict(type=RandomFlip, prob=0.5),
    dict(type=PhotoMetricDistortion),
    dict(type=PackSegInputs),
]
# Labels are loaded after the resize: scores are computed at the size of the original.
test_pipeline = [
    dict(type=LoadImageFromFile),
    dict(type=Resize, scale=(2048, 512), keep_ratio=True),
    dict(type=LoadAnnotations),
    dict(type=PackSegInputs),
]
# tools/test.py --tta: six scales of the test size, each with its mirror image. Up to 0.75 an image is smaller than a
# window, which is then padded as training crops are. Labels stay at the size of the original.
tta_pipeline = [
    dict(type=LoadImageFromFile),
    dict(
        type=TestTimeAug,
        transforms=[
            [
                dict(type=Resize, scale=(int(2048 * r), int(512 * r)), keep_ratio=True)
                for r in (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
            ],
            [dict(type=RandomFlip, prob=0.0), dict(type=RandomFlip, prob=1.0)],
            [dict(type=LoadAnnotations)],
            [dict(type=PackSegInputs)],
        ],
    ),
]
train_dataloader = dict(
    batch_size=2,  # 8 GPUs x 2 = 16
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type=InfiniteSampler, shuffle=True),
    dataset=dict(
        type=ADE20KDataset,
        data_root="data/ade/ADEChallengeData2016/",
        data_prefix=dict(img_path="images/training", seg_map_path="annotations/training"),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type=DefaultSampler, shuffle=False),
    dataset=dict(
        type=ADE20KDataset,
        data_root="data/ade/ADEChallengeData2016/",
        data_prefix=dict(img_path="images/validation", seg_map_path="annotations/validation"),
        pipeline=test_pipeline,
    ),
)
val_evaluator = dict(type=CMAESegMetric, iou_metrics=["mIoU"])
test_dataloader = val_dataloader
test_evaluator = val_evaluator
val_cfg = dict()
test_cfg = dict()
