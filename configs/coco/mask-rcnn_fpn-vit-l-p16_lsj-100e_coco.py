"""Mask R-CNN on ViT-L/16 before ViTDet, 100 epochs of COCO with large-scale jitter (protocol P1).

Box and mask AP of MAE: 53.3 / 47.2. Not published for this size: learning rate, weight decay and drop path, which
were searched for each encoder. Those of ViT-B are used.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.recipes.coco_fpn_vit_b_p16 import *

model["backbone"].update(
    embed_dims=1024,
    depth=24,
    num_heads=16,
    window_blocks=[i for i in range(24) if i % 6 != 5],
    out_indices=(5, 11, 17, 23),
)
model["neck"][0].update(embed_dim=1024)
model["neck"][1].update(in_channels=[1024, 1024, 1024, 1024])
protocol = "DET-L21"
