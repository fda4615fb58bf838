"""CMAE with a small ViT on the embedded images, for minutes on two CPU cores.

The released recipe at another size: 64 px, 8 x 8 patches in 4 x 4 cells; int(16 * 0.35) = 5 cells = 20 patches
stay visible.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.datasets.mini_master72 import *
    from .._base_.models.cmae_vit_b_p16 import *
    from .._base_.mini_monitors import *
    from .._base_.schedules.pretrain_mini_20e import *

model.update(momentum=0.99)  # 0.996 would still hold half of the start after 170 steps
model["data_preprocessor"].update(size=64, max_shift=7)
model["backbone"].update(
    arch=dict(embed_dims=128, num_layers=6, num_heads=4, feedforward_channels=512), img_size=64, patch_size=8
)
decoder = dict(num_patches=64, patch_size=8, embed_dim=128, decoder_embed_dim=64, decoder_num_heads=4)
model["pixel_decoder"].update(decoder, decoder_depth=2)
model["feature_decoder"].update(decoder, decoder_depth=1)
model["projector"].update(in_channels=128, hid_channels=256, out_channels=64)
model["head"].update(patch_size=8)
model["head"]["predictor"].update(in_channels=64, hid_channels=256, out_channels=64)
