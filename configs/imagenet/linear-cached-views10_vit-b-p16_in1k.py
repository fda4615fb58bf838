"""MAE's linear probe, ViT-B/16, on 10 cached views of each image with MAE's crop and flip: run with tools/probe.py.

Epoch e sees view e % 10. Disk: 10 x 1,281,167 x 768 x 2 bytes = 19.7 GB in float16.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.models.frozen_vit_imagenet import *
    from .._base_.probes.linear_cached import *

train_dataloader["dataset"].update(pipeline=train_pipeline)
features.update(views=10, storage="float16")
protocol = "IN-LIN-MAE-VIEWS10"
