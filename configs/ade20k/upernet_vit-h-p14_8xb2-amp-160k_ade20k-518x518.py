"""UperNet on ViT-H/14 at 518 px. Protocol SEG-UP-518, of this suite; no published recipe is known to us (unsure)."""

from mmengine.config import read_base

with read_base():
    from .._base_.recipes.upernet_vit_h_p14 import *
