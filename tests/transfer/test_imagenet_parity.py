"""The fine-tuning model of MAE and CMAE: pooled output, logits, rates of layers, mixed labels, against oracles."""

import cmae_mm.compat  # noqa: F401  (before torchvision, which the libraries import)

# isort: split
import math
from functools import partial

import numpy as np
import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmpretrain.models import CutMix, ImageClassifier, LabelSmoothLoss, Mixup
from mmpretrain.registry import MODELS
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from cmae_mm.checkpoints import save_backbone
from cmae_mm.checkpoints.header import BackboneHeader
from cmae_mm.transfer.imagenet import ImageNetViT
from cmae_mm.transfer.layer_decay import LayerDecayConstructor

DEPTH, WIDTH, CLASSES = 12, 24, 5


def timm_model():
    """timm's ViT as MAE fine-tunes it: mean of patch tokens, a norm after pooling, a linear layer."""
    torch.manual_seed(0)
    model = VisionTransformer(
        img_size=32,
        patch_size=8,
        embed_dim=WIDTH,
        depth=DEPTH,
        num_heads=3,
        mlp_ratio=2.0,
        num_classes=CLASSES,
        global_pool="avg",
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def classifier(backbone_file=None):
    arch = dict(embed_dims=WIDTH, num_layers=DEPTH, num_heads=3, feedforward_channels=2 * WIDTH)
    norm = dict(type="LN", eps=1e-6)
    backbone = dict(
        type=ImageNetViT, arch=arch, img_size=32, patch_size=8, norm_cfg=norm, final_norm=False,
        out_type="avg_featmap", backbone_file=backbone_file,
    )  # fmt: skip
    head = dict(type="LinearClsHead", num_classes=CLASSES, in_channels=WIDTH)
    return ImageClassifier(backbone=backbone, head=MODELS.build(head))


def test_pooled_output_and_logits(tmp_path):
    timm = timm_model()
    state = {k: v for k, v in timm.state_dict().items() if not k.startswith(("fc_norm.", "head."))}
    state |= {
        "norm.weight": torch.ones(WIDTH),
        "norm.bias": torch.zeros(WIDTH),
    }  # pretraining's, not used here
    header = BackboneHeader("mae", WIDTH, DEPTH, 3, 2 * WIDTH, patch=8, image_size=32)
    save_backbone(tmp_path / "x.safetensors", state, header)
    ours = classifier(str(tmp_path / "x.safetensors"))
    ours.backbone.init_weights()
    ours.backbone.ln2.load_state_dict(timm.fc_norm.state_dict())
    ours.head.fc.load_state_dict(timm.head.state_dict())
    ours.eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        pooled = ours.extract_feat(images)[-1]
        torch.testing.assert_close(
            pooled, timm.forward_head(timm.forward_features(images), pre_logits=True), atol=1e-5, rtol=0
        )
        torch.testing.assert_close(ours(images), timm(images), atol=1e-5, rtol=0)


def test_rates_of_layers():
    """0.65^(13 - d) for ViT-B's twelve blocks: d = 0 the stem and tokens, i + 1 block i, 13 norm and head."""
    model = classifier()
    config = dict(
        optimizer=dict(type="AdamW", lr=1.0, weight_decay=0.05),
        constructor=LayerDecayConstructor,
        paramwise_cfg=dict(layer_decay_rate=0.65, no_decay=("ndim1", "pos_embed", "cls_token")),
    )
    groups = build_optim_wrapper(model, config).optimizer.param_groups
    rate = {id(p): group["lr"] for group in groups for p in group["params"]}
    seen = set()
    for name, parameter in model.named_parameters():
        part = name.split(".")
        if part[1] == "layers":
            depth = int(part[2]) + 1
        else:
            depth = 0 if part[1] in ("patch_embed", "pos_embed", "cls_token") else 13
        assert rate[id(parameter)] == pytest.approx(0.65 ** (13 - depth), rel=1e-12), name
        seen.add(depth)
    assert seen == set(range(14))


@pytest.mark.parametrize(("kind", "lam"), [(Mixup, 0.3), (CutMix, None)])
def test_mixed_images_and_soft_labels(kind, lam, monkeypatch):
    """Image i is mixed with image order[i]; the label's share is that of the image, for CutMix of its area."""
    order = torch.tensor([2, 0, 1])
    monkeypatch.setattr(torch, "randperm", lambda n: order)
    monkeypatch.setattr(np.random, "beta", lambda a, b: 0.3)
    np.random.seed(0)
    images, labels = torch.randn(3, 3, 8, 8), torch.eye(CLASSES)[[0, 3, 4]]
    mixed, soft = kind(alpha=0.8).mix(images.clone(), labels.clone())
    for i in range(3):
        other = images[order[i]]
        if kind is Mixup:
            share = lam
            expected = lam * images[i] + (1 - lam) * other
        else:
            kept = (mixed[i] == images[i]).all(0)
            share = kept.float().mean().item()
            expected = torch.where(kept, images[i], other)
            assert 0 < share < 1
        torch.testing.assert_close(mixed[i], expected)
        torch.testing.assert_close(soft[i], share * labels[i] + (1 - share) * labels[order[i]])


def test_smoothed_loss_of_mixed_labels():
    """Labels y become (1 - s) y + s / K; the loss is the cross-entropy with them, averaged over images."""
    logits = torch.randn(4, CLASSES, dtype=torch.float64)
    labels = 0.3 * torch.eye(CLASSES)[[0, 1, 2, 3]] + 0.7 * torch.eye(CLASSES)[[4, 1, 0, 2]]
    loss = LabelSmoothLoss(label_smooth_val=0.1, mode="original")(logits, labels)
    total = 0.0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        normaliser = math.log(sum(math.exp(v) for v in row))
        total -= sum((0.9 * y + 0.1 / CLASSES) * (v - normaliser) for v, y in zip(row, label, strict=True))
    assert loss.item() == pytest.approx(total / 4, rel=1e-6)
