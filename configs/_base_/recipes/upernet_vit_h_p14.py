"""UperNet on ViT-H/14 with 518 px crops = 37 x 37 patches of 14; 512 px are no whole number of them.

No published recipe is known to us: ViT-L's optimizer, drop path 0.3 (unsure).
"""

from mmengine.config import read_base

with read_base():
    from .upernet_vit_l_p16 import *

protocol = "SEG-UP-518"
model["data_preprocessor"].update(size=(518, 518))
model["backbone"].update(
    img_size=518,
    patch_size=14,
    embed_dims=1280,
    depth=32,
    num_heads=16,
    out_indices=(7, 15, 23, 31),
    drop_path_rate=0.3,
)
model["neck"].update(embed_dim=1280)
model["decode_head"].update(in_channels=[1280] * 4, channels=1280)
model["auxiliary_head"].update(in_channels=1280)
model["test_cfg"].update(crop_size=(518, 518), stride=(345, 345))  # two thirds of the window
train_pipeline[3].update(crop_size=(518, 518))
train_dataloader["dataset"].update(pipeline=train_pipeline)
