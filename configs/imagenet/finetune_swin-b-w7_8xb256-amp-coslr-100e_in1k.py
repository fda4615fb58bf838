"""Fine-tuning of Swin-B, windows of 7, 100 epochs, as mmpretrain has it for SimMIM: 5e-3 at batch 2048, decay 0.9.

20 epochs of warm-up, gradients clipped at 5. Not to be ranked among ViTs.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.recipes.finetune_vit_b_p16 import *

from mmpretrain.models import GlobalAveragePooling

from cmae_mm.transfer.imagenet import ImageNetSwin

protocol = "IN-FT-SWIN"
model["backbone"] = dict(
    type=ImageNetSwin,
    arch="base",
    img_size=224,
    drop_path_rate=0.1,
    stage_cfgs=dict(block_cfgs=dict(window_size=7)),
    backbone_file=None,
)
model["neck"] = dict(type=GlobalAveragePooling)
model["head"].update(in_channels=1024)
model["head"]["init_cfg"].update(std=0.02)
train_dataloader["batch_size"] = 256
auto_scale_lr["base_batch_size"] = 2048
# 1.25e-3 for each 512 images
optim_wrapper["optimizer"].update(lr=1.25e-3 * 2048 / 512)
optim_wrapper["clip_grad"] = dict(max_norm=5.0)
optim_wrapper["paramwise_cfg"] = dict(
    layer_decay_rate=0.9, no_decay=(r"\.norm", r"\.bias$", r"\.relative_position_bias_table$")
)
param_scheduler[0].update(start_factor=2.5e-7 / 1.25e-3, end=20)
param_scheduler[1].pop("eta_min_ratio")
param_scheduler[1].update(T_max=80, begin=20, eta_min=2.5e-7 * 2048 / 512)
