"""AdamW for 12 epochs of COCO, in steps at 9 and 11, layer decay: CAE's schedule (github lxtGH/CAE, the ViT-B
config).

Batch 32 = 16 GPUs x 2. 500 iterations of warm-up, as in mmdet's own 12-epoch schedule; CAE's file for it was not
found.
"""

from mmengine.optim import AmpOptimWrapper, LinearLR, MultiStepLR
from torch.optim import AdamW

from cmae_mm.transfer.layer_decay import LayerDecayConstructor

optim_wrapper = dict(
    type=AmpOptimWrapper,
    optimizer=dict(type=AdamW, lr=3e-4, betas=(0.9, 0.999), weight_decay=0.05),
    constructor=LayerDecayConstructor,
    paramwise_cfg=dict(
        layer_decay_rate=0.75,
        # BEiT's rule. Its exemption of position table and class token forgets the prefix of the names and never holds.
        no_decay=dict(faithful=("ndim1",), intended=("ndim1", "pos_embed", "cls_token")),
        reading="faithful",
    ),
)
param_scheduler = [
    dict(type=LinearLR, start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type=MultiStepLR, by_epoch=True, milestones=[9, 11], gamma=0.1),
]
train_cfg = dict(by_epoch=True, max_epochs=12, val_interval=1)
auto_scale_lr = dict(enable=True, base_batch_size=32)
