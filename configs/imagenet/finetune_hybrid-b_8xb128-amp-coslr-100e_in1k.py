"""Fine-tuning of the hybrid ViT, 100 epochs, after ConvMAE's code: ViT-B's settings (ConvMAE, 1600 epochs: 84.98).

CMAE's numbers for the hybrid come without a recipe.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.recipes.finetune_vit_b_p16 import *

from cmae_mm.transfer.imagenet import ImageNetHybrid

protocol = "IN-FT"
model["backbone"] = dict(type=ImageNetHybrid, drop_path_rate=0.1, backbone_file=None)
optim_wrapper["paramwise_cfg"].update(no_decay=("ndim1", r"\.pos_embed$"))
