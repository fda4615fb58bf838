"""ADE20K with 640 px crops: everything 1.25 times as large (mmseg, _base_/datasets/ade20k_640x640.py)."""

from mmengine.config import read_base

with read_base():
    from .ade20k_512 import *

train_pipeline[2].update(scale=(2560, 640))
train_pipeline[3].update(crop_size=(640, 640))
test_pipeline[1].update(scale=(2560, 640))
for step in tta_pipeline[1]["transforms"][0]:
    step.update(scale=tuple(side * 640 // 512 for side in step["scale"]))
train_dataloader["dataset"].update(pipeline=train_pipeline)
val_dataloader["dataset"].update(pipeline=test_pipeline)
test_dataloader["dataset"].update(pipeline=test_pipeline)
