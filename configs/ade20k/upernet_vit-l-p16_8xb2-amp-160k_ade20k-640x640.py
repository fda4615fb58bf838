"""ViT-L/16 with 640 px crops and windows of stride 426. Protocol SEG-UP-640; settings of ViT-L at 512 px (unsure)."""

from mmengine.config import read_base

with read_base():
    from .._base_.recipes.upernet_vit_l_p16 import *
    from .._base_.datasets.ade20k_640 import *

protocol = "SEG-UP-640"
model["data_preprocessor"].update(size=(640, 640))
model["backbone"].update(img_size=640)
model["test_cfg"].update(crop_size=(640, 640), stride=(426, 426))
