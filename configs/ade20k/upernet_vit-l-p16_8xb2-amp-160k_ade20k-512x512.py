"""UperNet on ViT-L/16, ADE20K at 512 px. Protocol SEG-UP.

MAE gives 53.6, with settings that are not published (unsure).
"""

from mmengine.config import read_base

with read_base():
    from .._base_.recipes.upernet_vit_l_p16 import *
