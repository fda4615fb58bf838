"""Mask R-CNN on ViTDet with ViT-L/16: width 1024, 24 blocks, 16 heads; global blocks 5, 11, 17, 23."""

from mmengine.config import read_base

with read_base():
    from .coco_vitdet_b_p16 import *

model["backbone"].update(
    embed_dims=1024,
    depth=24,
    num_heads=16,
    window_blocks=[i for i in range(24) if i % 6 != 5],
    drop_path_rate=0.4,
)
model["neck"].update(in_channels=1024)
optim_wrapper["paramwise_cfg"].update(layer_decay_rate=0.8)
