"""UperNet on ViT-B, ADE20K at 512 px, 160,000 iterations, single scale, sliding windows: MAE's recipe.

Protocol SEG-UP. implus/mae_segmentation reached 48.15 with it, mmseg 48.13 (48.70 with multi-scale and flip).
Mixed precision is on, in bfloat16; mmseg's config of this name leaves it off.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.recipes.upernet_vit_b_p16 import *
