"""AdamW for 300 epochs at batch 4096: 1,281,167 / 4096 = 313 iterations an epoch, 93,900 in all.

The schedule of MAE and of CMAE's released code; `--cfg-options optim_wrapper.dtype=float16` changes the precision.
"""

from mmengine.optim import AmpOptimWrapper, CosineAnnealingLR, LinearLR
from torch.optim import AdamW

from cmae_mm.pretrain.optimizer import GroupedOptimWrapperConstructor

optim_wrapper = dict(
    type=AmpOptimWrapper,
    dtype="bfloat16",
    # 1.5e-4 for each 256 images: 1.5e-4 * 4096 / 256 = 2.4e-3
    optimizer=dict(type=AdamW, lr=1.5e-4 * 4096 / 256, betas=(0.9, 0.95), weight_decay=0.05, fused=True),
    constructor=GroupedOptimWrapperConstructor,
    paramwise_cfg=dict(
        # Substrings, as in the released code
        custom_keys={
            "ln": dict(decay_mult=0.0),
            "bias": dict(decay_mult=0.0),
            "pos_embed": dict(decay_mult=0.0),
            "mask_token": dict(decay_mult=0.0),
            "cls_token": dict(decay_mult=0.0),
        },
        # Other one-dimensional parameters: batch-norm weights are decayed in the released code; paper: 0.0
        flat_decay_mult=1.0,
    ),
)
param_scheduler = [
    # 40 epochs = 12,520 iterations
    dict(type=LinearLR, start_factor=1e-4, begin=0, end=40, by_epoch=True, convert_to_iter_based=True),
    dict(
        type=CosineAnnealingLR, T_max=260, begin=40, end=300, by_epoch=True, convert_to_iter_based=True
    ),  # 300 - 40
]
train_cfg = dict(by_epoch=True, max_epochs=300)
auto_scale_lr = dict(base_batch_size=4096)
