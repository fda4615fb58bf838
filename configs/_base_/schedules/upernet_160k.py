"""AdamW with layer decay, 160,000 iterations of 16 images: the schedule of BEiT, which MAE and all later methods took.

16 = 8 GPUs x 2. 160,000 x 16 / 20,210 images = 127 epochs. Fewer GPUs: `--accumulate`.
"""

from mmengine.optim import AmpOptimWrapper, LinearLR, PolyLR
from mmengine.runner import IterBasedTrainLoop
from torch.optim import AdamW

from cmae_mm.transfer.layer_decay import LayerDecayConstructor

default_scope = "mmseg"
optim_wrapper = dict(
    type=AmpOptimWrapper,
    dtype="bfloat16",
    optimizer=dict(type=AdamW, lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
    constructor=LayerDecayConstructor,
    paramwise_cfg=dict(
        layer_decay_rate=0.65,
        # BEiT's code, behind all published numbers, exempts vectors and biases. It means to exempt class token and
        # position table too, but compares their names without the prefix `backbone.`; and all tables decay.
        no_decay=dict(
            faithful=("ndim1",),
            intended=("ndim1", r"\.cls_token$", r"\.pos_embed$", r"relative_position_bias_table$"),
        ),
        reading="faithful",
    ),
)
param_scheduler = [
    dict(type=LinearLR, start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(type=PolyLR, eta_min=0.0, power=1.0, by_epoch=False, begin=1500, end=160000),
]
train_cfg = dict(type=IterBasedTrainLoop, max_iters=160000, val_interval=16000)
log_processor = dict(by_epoch=False)
# Scales the learning rate when processes x batch_size is not 16; the number of iterations stays.
auto_scale_lr = dict(enable=True, base_batch_size=16)
