"""Mask R-CNN with a feature pyramid from four depths of a plain ViT-B, 1024 px, as before ViTDet.

The protocol of Li et al. 2021 (arXiv 2111.11429), whose code was never released. This is its public stand-in (github
hustvl/MIMDet, models/benchmarking.py), which reaches the paper's numbers: windows of 16, which need no padding; the
last block of each quarter is global; one relative-position table for all windowed blocks and one for all global ones;
maps of the four global blocks up- and downsampled (transposed convolutions, group norm); batch norm over all GPUs in
pyramid and heads.

Differs from it: positions are the table of the backbone file, resized, and not a new sin-cos table of 64 x 64.
"""

from mmengine.config import read_base

with read_base():
    from .mask_rcnn_vitdet import *

from mmdet.models import FPN
from mmseg.models import Feature2Pyramid

norm_cfg = dict(type="SyncBN", requires_grad=True)
model["backbone"].update(
    rel_pos="table",
    share_tables=True,
    window_size=16,
    out_indices=(2, 5, 8, 11),
)
model["neck"] = [
    dict(type=Feature2Pyramid, embed_dim=768, norm_cfg=dict(type="GN", num_groups=32)),
    # the fifth level is every second pixel of the fourth
    dict(type=FPN, in_channels=[768, 768, 768, 768], out_channels=256, num_outs=5, norm_cfg=norm_cfg),
]
model["roi_head"]["bbox_head"].update(norm_cfg=norm_cfg)
model["roi_head"]["mask_head"].update(norm_cfg=norm_cfg)
