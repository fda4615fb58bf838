"""Mask R-CNN on Swin-B, 36 epochs of COCO with large-scale jitter: for SimMIM's row (52.3 box AP, no mask AP).

**Reconstructed.** SimMIM has published neither code nor settings for COCO, and that the row is Swin-B is itself
inferred from the missing mask AP. Everything here is a choice: detector and jitter are those of ViTDet, the learning
rate drops at 8/9 and 26/27, learning rate, decays and drop path are usual ones. Never rank it among ViTs, and never
take a difference to 52.3 for one under the same protocol.

The backbone is mmpretrain's, started from a backbone file of a Swin (`cmae-mm import`).
36 epochs x 118,000 / 64 = 66,375 iterations.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.recipes.coco_vitdet_b_p16 import *

from mmdet.models import FPN

from cmae_mm.transfer.coco import CMAEDetSwin

model["backbone"] = dict(type=CMAEDetSwin, arch="base", img_size=1024, drop_path_rate=0.2, backbone_file=None)
model["neck"] = dict(
    type=FPN, in_channels=[128, 256, 512, 1024], out_channels=256, num_outs=5, norm_cfg=norm_cfg
)
optim_wrapper["optimizer"].update(lr=1e-4, weight_decay=0.05)
optim_wrapper["paramwise_cfg"] = dict(
    layer_decay_rate=0.9, no_decay=("ndim1", "relative_position_bias_table")
)
train_cfg["max_iters"] = 66375
param_scheduler[1]["milestones"] = [66375 * 8 // 9, 66375 * 26 // 27]
protocol = "DET-SWIN-RECONSTRUCTED"
