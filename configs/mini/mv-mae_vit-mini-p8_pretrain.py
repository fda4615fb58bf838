"""Multi-View MAE with the small ViT on the embedded images: int(64 * 0.2) = 12 patches of each view stay visible."""

from mmengine.config import read_base

with read_base():
    from .._base_.datasets.mini_master72 import *
    from .._base_.models.mv_mae_vit_b_p16 import *
    from .._base_.mini_monitors import *
    from .._base_.schedules.pretrain_mini_20e import *

model["data_preprocessor"].update(size=64)
model["backbone"].update(
    arch=dict(embed_dims=128, num_layers=6, num_heads=4, feedforward_channels=512), img_size=64, patch_size=8
)
model["pixel_decoder"].update(
    num_patches=64,
    patch_size=8,
    embed_dim=128,
    decoder_embed_dim=64,
    decoder_depth=2,
    decoder_num_heads=4,
)
model["projector"].update(in_channels=128, hid_channels=256, out_channels=64)
model["head"].update(patch_size=8)
# the whole image, from which the device cuts both views
train_dataloader["dataset"].update(size=96, crop="whole")
