"""UperNet on the hybrid ViT, after ConvMAE's segmentation code (51.7 mIoU): rate 1e-4, decay 0.75, drop path 0.2.

The four maps are those of the stages, without a neck. Its README says 16K iterations, a slip for 160,000.
"""

from mmengine.config import read_base

with read_base():
    from .upernet_vit_b_p16 import *

from cmae_mm.transfer.ade20k import CMAEUperNetHybrid

protocol = "SEG-UP-HYBRID"
model.pop("neck")
model["backbone"] = dict(
    type=CMAEUperNetHybrid,
    img_size=512,
    layer_scale=1.0,
    drop_path_rate=0.2,
    with_cp=False,
    norm_cfg=norm_cfg,
    backbone_file=None,
)
model["decode_head"].update(in_channels=[256, 384, 768, 768])
optim_wrapper["paramwise_cfg"].update(layer_decay_rate=0.75)
