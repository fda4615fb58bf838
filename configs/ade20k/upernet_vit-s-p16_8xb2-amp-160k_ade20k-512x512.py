"""UperNet on ViT-S/16. Protocol SEG-UP with ViT-B's settings; no published recipe is known to us (unsure)."""

from mmengine.config import read_base

with read_base():
    from .._base_.recipes.upernet_vit_s_p16 import *
