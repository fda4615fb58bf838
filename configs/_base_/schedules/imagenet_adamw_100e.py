"""AdamW with layer decay, 100 epochs, 5 of warm-up, batch 1024 = 8 GPUs x 128: MAE's fine-tuning code for ViT-B.

100 epochs x 1,251 iterations (1,281,167 / 1024) = 125,100. Fewer GPUs: `--accumulate`.
"""

from mmengine.optim import AmpOptimWrapper, CosineAnnealingLR, LinearLR
from torch.optim import AdamW

from cmae_mm.engine.finite_hook import FiniteLossHook
from cmae_mm.transfer.layer_decay import LayerDecayConstructor

optim_wrapper = dict(
    type=AmpOptimWrapper,
    dtype="bfloat16",
    # 2e-3 at batch 1024: 5e-4 for each 256 images
    optimizer=dict(type=AdamW, lr=5e-4 * 1024 / 256, betas=(0.9, 0.999), weight_decay=0.05),
    constructor=LayerDecayConstructor,
    paramwise_cfg=dict(layer_decay_rate=0.65, no_decay=("ndim1", r"\.pos_embed$", r"\.cls_token$")),
)
# The end of the cosine is 1e-6 for the head, and as much smaller for a layer as its rate is: MAE scales both.
param_scheduler = [
    dict(type=LinearLR, start_factor=1e-4, begin=0, end=5, by_epoch=True, convert_to_iter_based=True),
    dict(
        type=CosineAnnealingLR,
        T_max=95,
        begin=5,
        end=100,
        eta_min_ratio=1e-6 / 2e-3,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
]
train_cfg = dict(by_epoch=True, max_epochs=100, val_interval=1)
# Scales the learning rate when processes x batch_size is not 1024.
auto_scale_lr = dict(enable=True, base_batch_size=1024)
finite_loss = dict(type=FiniteLossHook)
