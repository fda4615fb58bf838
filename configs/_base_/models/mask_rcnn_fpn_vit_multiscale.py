"""Mask R-CNN with a feature pyramid from four depths of a plain ViT-B at many sizes, as CAE has it.

From github lxtGH/CAE, downstream_tasks/detection (mask_rcnn_vit_fpn.py and the ViT-B config): a class token, global
attention in every block, no relative positions, layer scale that starts at 0.1; maps of blocks 3, 5, 7 and 11; batch
norm over all GPUs in the upsampling and in the box head, none in pyramid and mask head; boxes are decoded before
their loss, GIoU of weight 10.

Differs from it: fixed positions are the table of the backbone file, resized, and not a new sin-cos table of 42 x 68.
A backbone file without layer scale starts with scale 1, so that the encoder's features stay what they are.
"""

from mmengine.config import read_base

with read_base():
    from .mask_rcnn_vitdet import *

from mmdet.models import FPN, GIoULoss
from mmseg.models import Feature2Pyramid

norm_cfg = dict(type="SyncBN", requires_grad=True)
model["data_preprocessor"].update(pad_size_divisor=32)
model["backbone"].update(
    cls_token=True,
    rel_pos="none",
    window_blocks=(),
    out_indices=(3, 5, 7, 11),
    layer_scale=0.1,
    drop_path_rate=0.2,
    train_positions=False,
    with_cp=True,
)
model["neck"] = [
    dict(type=Feature2Pyramid, embed_dim=768, norm_cfg=norm_cfg),
    dict(type=FPN, in_channels=[768, 768, 768, 768], out_channels=256, num_outs=5),
]
model["rpn_head"].update(num_convs=1)
model["roi_head"]["bbox_head"].update(
    norm_cfg=norm_cfg, reg_decoded_bbox=True, loss_bbox=dict(type=GIoULoss, loss_weight=10.0)
)
model["roi_head"]["mask_head"].update(norm_cfg=None)
model["train_cfg"]["rpn_proposal"].update(max_per_img=2000)
model["train_cfg"]["rcnn"]["assigner"].update(match_low_quality=True)
