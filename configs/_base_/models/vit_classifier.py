"""ViT-B/16 as MAE fine-tunes it: mean of the patch tokens, a new norm, a linear layer; mixup or cutmix per batch."""

from mmengine.model import TruncNormalInit
from mmpretrain.models import CutMix, ImageClassifier, LabelSmoothLoss, LinearClsHead, Mixup

from cmae_mm.transfer.imagenet import ImageNetViT

model = dict(
    type=ImageClassifier,
    backbone=dict(
        type=ImageNetViT,
        arch="base",
        img_size=224,
        patch_size=16,
        drop_path_rate=0.1,
        out_type="avg_featmap",
        final_norm=False,
        backbone_file=None,
        trainable_blocks=None,
    ),
    head=dict(
        type=LinearClsHead,
        num_classes=1000,
        in_channels=768,
        # y becomes 0.9 y + 0.1 / 1000, before or after mixing: the same
        loss=dict(type=LabelSmoothLoss, label_smooth_val=0.1, mode="original"),
        init_cfg=dict(type=TruncNormalInit, layer="Linear", std=2e-5),
    ),
    # one of both, each half of the time
    train_cfg=dict(augments=[dict(type=Mixup, alpha=0.8), dict(type=CutMix, alpha=1.0)]),
)
