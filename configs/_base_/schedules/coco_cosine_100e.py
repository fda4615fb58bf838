"""AdamW for 100 epochs of COCO at batch 64, cosine to 0, no layer decay: the stand-in for Li et al. 2021.

184,375 iterations x 64 / 118,000 images = 100 epochs; a quarter of an epoch, 461 iterations, of warm-up (github
hustvl/MIMDet, configs/benchmarking). Its history has two settings: learning rate 8e-5 with weight decay 0.1, used
here, and later 1.6e-4 with 0.2. Norms, position and relative-position tables do not decay. In the paper both, drop
path and epochs were searched for each encoder.
"""

from mmengine.optim import AmpOptimWrapper, CosineAnnealingLR, LinearLR
from mmengine.runner import IterBasedTrainLoop
from torch.optim import AdamW

from cmae_mm.transfer.layer_decay import LayerDecayConstructor

optim_wrapper = dict(
    type=AmpOptimWrapper,
    optimizer=dict(type=AdamW, lr=8e-5, betas=(0.9, 0.999), weight_decay=0.1),
    constructor=LayerDecayConstructor,
    paramwise_cfg=dict(layer_decay_rate=1.0, no_decay=("norm", "pos_embed", "relative_position_bias_table")),
)
param_scheduler = [
    dict(type=LinearLR, start_factor=0.001, by_epoch=False, begin=0, end=461),
    dict(type=CosineAnnealingLR, by_epoch=False, begin=461, end=184375, T_max=184375 - 461),
]
train_cfg = dict(type=IterBasedTrainLoop, max_iters=184375, val_interval=5000)
log_processor = dict(by_epoch=False)
auto_scale_lr = dict(enable=True, base_batch_size=64)
