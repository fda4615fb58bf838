"""Fine-tuning on the embedded ImageNet-style folder: mean patch token, a new norm, a linear layer.

The form of MAE's fine-tuning at a small size: AdamW, layer decay, drop path, label smoothing.
5 epochs x 94 iterations (3,000 / 32) = 470 iterations, 1 epoch of warm-up.
"""

from mmengine.config import read_base

with read_base():
    from ..datasets.mini_imagenet import *
    from ..runtime import *

from mmengine.optim import CosineAnnealingLR, LinearLR, OptimWrapper
from mmpretrain.models import ImageClassifier, LabelSmoothLoss, LinearClsHead
from torch.optim import AdamW

from cmae_mm.transfer.imagenet import ImageNetViT
from cmae_mm.transfer.layer_decay import LayerDecayConstructor

protocol = "mini-finetune"

model = dict(
    type=ImageClassifier,
    backbone=dict(
        type=ImageNetViT,
        arch=dict(embed_dims=128, num_layers=6, num_heads=4, feedforward_channels=512),
        img_size=64,
        patch_size=8,
        drop_path_rate=0.05,
        out_type="avg_featmap",
        final_norm=False,
        backbone_file=None,
        trainable_blocks=None,
    ),
    head=dict(
        type=LinearClsHead,
        num_classes=10,
        in_channels=128,
        loss=dict(type=LabelSmoothLoss, label_smooth_val=0.1, mode="original"),
    ),
)
optim_wrapper = dict(
    type=OptimWrapper,
    # 1e-3 at batch 32: 8e-3 for each 256 images
    optimizer=dict(type=AdamW, lr=8e-3 * 32 / 256, betas=(0.9, 0.999), weight_decay=0.05),
    constructor=LayerDecayConstructor,
    paramwise_cfg=dict(layer_decay_rate=0.9, no_decay=("ndim1", "pos_embed", "cls_token")),
)
param_scheduler = [
    dict(type=LinearLR, start_factor=1e-2, end=1, by_epoch=True, convert_to_iter_based=True),
    dict(type=CosineAnnealingLR, T_max=4, begin=1, end=5, by_epoch=True, convert_to_iter_based=True),
]
train_cfg = dict(by_epoch=True, max_epochs=5, val_interval=5)
