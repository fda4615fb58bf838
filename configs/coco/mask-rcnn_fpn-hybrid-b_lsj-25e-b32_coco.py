"""Mask R-CNN with a pyramid from all stages of the hybrid ViT (protocol P4; ConvMAE gives 53.2 / 47.1).

The DET folder of ConvMAE: windows of 16, global blocks 0, 3, 6, 10 of 11; shared relative-position tables; positions
are frozen; no layer decay. Batch 32 = 8 GPUs x 4. 92,187 iterations x 32 / 118,000 images = 25 epochs; warm-up 0.5 %
of them, 461.

Not known: whether norms of convolutional blocks have epsilon 1e-6 here too, as they do in ConvMAE's other detection
code.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.recipes.coco_fpn_vit_b_p16 import *

from cmae_mm.transfer.hybrid import CMAEHybridViTDet
from mmdet.models import FPN

model["backbone"] = dict(
    type=CMAEHybridViTDet,
    img_size=1024,
    pretrain_img_size=224,
    rel_pos="table",
    share_tables=True,
    window_size=16,
    window_blocks=(1, 2, 4, 5, 7, 8, 9),
    drop_path_rate=0.1,
    train_positions=False,
    maps="stages",
    backbone_file=None,
)
model["neck"] = dict(
    type=FPN, in_channels=[256, 384, 768, 768], out_channels=256, num_outs=5, norm_cfg=norm_cfg
)
train_cfg["max_iters"] = 92187
param_scheduler[1].update(end=92187, T_max=92187 - 461)
auto_scale_lr.update(base_batch_size=32)
protocol = "DET-CONVMAE-FPN"
