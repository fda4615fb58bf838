"""Mask R-CNN on ViTDet with the hybrid ViT of ConvMAE-Base: windows of 14, global blocks 1, 4, 7, 10 of 11.

Model, layer decay 0.8 over 11 blocks and weight decay are those of ConvMAE's detection code (github
OpenGVLab/Official-ConvMAE-Det); batch and schedule are ViTDet's. There the position table falls through the rule for
layers and keeps the base learning rate.
"""

from mmengine.config import read_base

with read_base():
    from .coco_vitdet_b_p16 import *

from cmae_mm.transfer.hybrid import CMAEHybridViTDet

model["backbone"] = dict(
    type=CMAEHybridViTDet, img_size=1024, pretrain_img_size=224, drop_path_rate=0.1, backbone_file=None
)
optim_wrapper["paramwise_cfg"].update(
    layer_decay_rate=0.8, base_rate=dict(faithful=(r"^backbone\.pos_embed$",), intended=())
)
