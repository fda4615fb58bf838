"""UperNet on ViT-S/16: ViT-B's settings with the width of ViT-S. No published recipe is known to us (unsure)."""

from mmengine.config import read_base

with read_base():
    from .upernet_vit_b_p16 import *

model["backbone"].update(embed_dims=384, num_heads=6)
model["neck"].update(embed_dim=384)
model["decode_head"].update(in_channels=[384] * 4, channels=384)
model["auxiliary_head"].update(in_channels=384)
