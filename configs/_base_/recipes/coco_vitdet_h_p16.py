"""Mask R-CNN on ViTDet with ViT-H: width 1280, 32 blocks, 16 heads; global blocks 7, 15, 23, 31.

The patch is 16 px here and 14 px in pretraining. detectron2 starts from a file whose stem was resized to 16 px; a
backbone file with patch 14 is refused. Its config of this size drops the exemptions from weight decay, so everything
decays.
"""

from mmengine.config import read_base

with read_base():
    from .coco_vitdet_b_p16 import *

model["backbone"].update(
    embed_dims=1280,
    depth=32,
    num_heads=16,
    window_blocks=[i for i in range(32) if i % 8 != 7],
    drop_path_rate=0.5,
)
model["neck"].update(in_channels=1280)
optim_wrapper["paramwise_cfg"].update(
    layer_decay_rate=0.9, no_decay=dict(faithful=(), intended=("norm", "pos_embed"))
)
