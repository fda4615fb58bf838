"""AdamW for 100 epochs of COCO at batch 64, in steps: ViTDet's schedule (detectron2,
projects/ViTDet/configs/COCO).

Batch 64 = 16 GPUs x 4. 184,375 iterations x 64 / 118,000 images = 100 epochs. The learning rate drops at 8/9 and
26/27 of the run, which shorter schedules keep; 250 iterations of warm-up stay. No EMA, no gradient clipping.
`--cfg-options optim_wrapper.dtype=bfloat16` changes the precision.
"""

from mmengine.optim import AmpOptimWrapper, LinearLR, MultiStepLR
from mmengine.runner import IterBasedTrainLoop
from torch.optim import AdamW

from cmae_mm.transfer.layer_decay import LayerDecayConstructor

optim_wrapper = dict(
    type=AmpOptimWrapper,
    optimizer=dict(type=AdamW, lr=1e-4, betas=(0.9, 0.999), weight_decay=0.1),
    constructor=LayerDecayConstructor,
    paramwise_cfg=dict(
        layer_decay_rate=0.7,
        # detectron2 exempts norms, but does not know its own norm over channels (pyramid, heads) for one.
        # Biases and relative positions decay.
        no_decay=dict(
            faithful=(r"^backbone\..*norm", "pos_embed"),
            intended=("norm", "pos_embed"),
        ),
        reading="faithful",
    ),
)
param_scheduler = [
    dict(type=LinearLR, start_factor=0.001, by_epoch=False, begin=0, end=250),
    dict(type=MultiStepLR, by_epoch=False, milestones=[163889, 177546], gamma=0.1),
]
train_cfg = dict(type=IterBasedTrainLoop, max_iters=184375, val_interval=5000)
log_processor = dict(by_epoch=False)
# Scales the learning rate when processes x batch_size is not 64; the number of iterations stays.
auto_scale_lr = dict(enable=True, base_batch_size=64)
