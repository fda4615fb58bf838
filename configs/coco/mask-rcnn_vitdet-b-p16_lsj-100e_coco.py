"""ViTDet ViT-B, Mask R-CNN, 100 epochs of COCO with large-scale jitter (protocol P2; MAE gives 51.6 / 45.9).

Batch 64 = 16 GPUs x 4. 184,375 iterations x 64 / 118,000 images = 100 epochs.
The learning rate drops at 8/9 (163,889) and 26/27 (177,546) of the run: keep the fractions in shorter ones.
No EMA, no gradient clipping.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.datasets.coco_lsj import *
    from .._base_.models.mask_rcnn_vitdet import *
    from .._base_.runtime import *

from mmengine.optim import AmpOptimWrapper, LinearLR, MultiStepLR
from mmengine.runner import IterBasedTrainLoop
from torch.optim import AdamW

from cmae_mm.transfer.layer_decay import LayerDecayConstructor

default_scope = "mmdet"
optim_wrapper = dict(
    type=AmpOptimWrapper,
    optimizer=dict(type=AdamW, lr=1e-4, betas=(0.9, 0.999), weight_decay=0.1),
    constructor=LayerDecayConstructor,
    # detectron2 exempts the backbone's norms and position table; biases, relative positions and the
    # norms of neck and heads decay.
    paramwise_cfg=dict(layer_decay_rate=0.7, no_decay=(r"^backbone\.blocks\.\d+\.norm", r"pos_embed")),
)
param_scheduler = [
    dict(type=LinearLR, start_factor=0.001, by_epoch=False, begin=0, end=250),
    dict(type=MultiStepLR, by_epoch=False, milestones=[163889, 177546], gamma=0.1),
]
train_cfg = dict(type=IterBasedTrainLoop, max_iters=184375, val_interval=5000)
default_hooks.update(
    dict(
        checkpoint=dict(by_epoch=False, interval=5000, save_best="coco/bbox_mAP", rule="greater"),
    )
)
log_processor = dict(by_epoch=False)
# Scales the learning rate when processes x batch_size is not 64; the number of iterations stays.
auto_scale_lr = dict(enable=True, base_batch_size=64)
