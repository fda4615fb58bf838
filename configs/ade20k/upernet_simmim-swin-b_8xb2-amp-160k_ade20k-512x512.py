"""UperNet on Swin-B, for SimMIM's row (52.8 mIoU): mmseg's own Swin recipe, 160,000 iterations.

Protocol SEG-UP-SWIN. **Reconstructed**: SimMIM has published no settings for ADE20K, and that its row is a Swin-B, not
a ViT, is inferred. Never rank it among ViTs. Learning rate 6e-5, weight decay 0.01, drop path 0.3, no layer decay and
whole images at test time are mmseg's (configs/swin).
"""

from mmengine.config import read_base

with read_base():
    from .._base_.recipes.upernet_vit_b_p16 import *

from mmengine.optim import DefaultOptimWrapperConstructor

from cmae_mm.transfer.ade20k import CMAEUperNetSwin

protocol = "SEG-UP-SWIN"
model.pop("neck")
model["backbone"] = dict(
    type=CMAEUperNetSwin,
    pretrain_img_size=224,
    embed_dims=128,
    depths=[2, 2, 18, 2],
    num_heads=[4, 8, 16, 32],
    window_size=7,
    drop_path_rate=0.3,
    patch_norm=True,
    with_cp=False,
    backbone_file=None,
)
model["decode_head"].update(in_channels=[128, 256, 512, 1024], channels=512)
model["auxiliary_head"].update(in_channels=512)
model["test_cfg"] = dict(mode="whole")
optim_wrapper["optimizer"].update(lr=6e-5, weight_decay=0.01)
optim_wrapper["constructor"] = DefaultOptimWrapperConstructor
optim_wrapper["paramwise_cfg"] = dict(
    custom_keys=dict(relative_position_bias_table=dict(decay_mult=0.0), norm=dict(decay_mult=0.0))
)
