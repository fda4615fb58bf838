"""The layer-decay constructor against a slow rule written by name, and against mmpretrain's own constructor."""

import re

import pytest
import torch
from mmengine.model import BaseModule
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from torch import nn

from cmae_mm.errors import UserError
from cmae_mm.transfer.ade20k import CMAEUperNetViT
from cmae_mm.transfer.coco import CMAEViTDet
from cmae_mm.transfer.layer_decay import LayerDecayConstructor
from cmae_mm.transfer.pyramid import ChannelLayerNorm, SimpleFeaturePyramid

TINY = {
    "img_size": 32,
    "patch_size": 8,
    "embed_dims": 24,
    "depth": 3,
    "num_heads": 2,
    "pretrain_img_size": 32,
}
RATE, LR, WD = 0.7, 1e-4, 0.1


class Detector(BaseModule):
    """What of a Mask R-CNN matters here: a backbone, a neck with channel norms, a head with biases."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        self.neck = SimpleFeaturePyramid(24, 8)
        self.roi_head = nn.Sequential(nn.Conv2d(8, 8, 3), ChannelLayerNorm(8), nn.Linear(8, 4))


def _wrapper(model, **paramwise):
    cfg = {
        "type": "OptimWrapper",
        "constructor": "LayerDecayConstructor",
        "optimizer": {"type": "AdamW", "lr": LR, "weight_decay": WD},
        "paramwise_cfg": paramwise,
    }
    return build_optim_wrapper(model, cfg)


def _per_parameter(model, wrapper):
    names = {id(p): n for n, p in model.named_parameters()}
    settings = {}
    for group in wrapper.optimizer.param_groups:
        for param in group["params"]:
            assert names[id(param)] not in settings, "in two groups"
            settings[names[id(param)]] = (group["lr"], group["weight_decay"])
    return settings


def _slow_rule(name, param, depth, exempt):
    layer = 0 if name.startswith("backbone.") else depth + 1
    if block := re.match(r"backbone\.blocks\.(\d+)\.", name):
        layer = int(block[1]) + 1
    return LR * RATE ** (depth + 1 - layer), 0.0 if exempt(name, param) else WD


def _vitdet_exempt(name, param):
    return name == "backbone.pos_embed" or bool(re.match(r"backbone\.blocks\.\d+\.norm[12]\.", name))


def _beit_exempt(name, param):
    return param.ndim == 1


CASES = [
    (CMAEViTDet, (r"^backbone\.blocks\.\d+\.norm", "pos_embed"), _vitdet_exempt),
    (CMAEUperNetViT, ("ndim1",), _beit_exempt),
    (CMAEViTDet, (), lambda name, param: False),
]


@pytest.mark.parametrize(("cls", "no_decay", "exempt"), CASES, ids=["vitdet", "beit", "none"])
def test_every_parameter_gets_what_the_slow_rule_says(cls, no_decay, exempt):
    model = Detector(cls(out_indices=(2,), window_blocks=(), **TINY))
    model.roi_head[0].bias.requires_grad_(False)
    wrapper = _wrapper(model, layer_decay_rate=RATE, no_decay=no_decay)
    expected = {n: _slow_rule(n, p, 3, exempt) for n, p in model.named_parameters() if p.requires_grad}
    actual = _per_parameter(model, wrapper)
    assert actual.keys() == expected.keys()
    for name, values in expected.items():
        assert actual[name] == pytest.approx(values, rel=1e-12), name
    assert len(wrapper.optimizer.param_groups) <= 2 * (3 + 2)
    assert len({(g["lr_scale"], g["weight_decay"]) for g in wrapper.optimizer.param_groups}) == len(
        wrapper.optimizer.param_groups
    )


def test_agrees_with_mmpretrain_on_its_own_classifier():
    from mmpretrain.engine.optimizers import LearningRateDecayOptimWrapperConstructor
    from mmpretrain.models import ImageClassifier

    arch = {"embed_dims": 24, "num_layers": 3, "num_heads": 2, "feedforward_channels": 48}
    with DefaultScope.overwrite_default_scope("mmpretrain"):  # other tests may have left another
        model = ImageClassifier(
            backbone={"type": "VisionTransformer", "arch": arch, "img_size": 32, "patch_size": 8},
            head={"type": "LinearClsHead", "num_classes": 5, "in_channels": 24},
        )
    optim = {"optimizer": {"type": "AdamW", "lr": LR, "weight_decay": WD}}
    theirs = LearningRateDecayOptimWrapperConstructor(
        optim,
        {
            "layer_decay_rate": RATE,
            "flat_decay_mult": 0.0,
            "custom_keys": {".cls_token": {"decay_mult": 0.0}, ".pos_embed": {"decay_mult": 0.0}},
        },
    )(model)
    ours = _wrapper(model, layer_decay_rate=RATE, no_decay=("ndim1", r"\.cls_token", r"\.pos_embed"))
    expected, actual = _per_parameter(model, theirs), _per_parameter(model, ours)
    assert actual.keys() == expected.keys()
    for name, values in expected.items():
        assert actual[name] == pytest.approx(values, rel=1e-12), name
    assert len(ours.optimizer.param_groups) < len(theirs.optimizer.param_groups)


class Renamed(BaseModule):
    """A backbone whose names its own get_layer_depth does not know."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 4)])

    def get_layer_depth(self, name, prefix=""):
        return 2, 3


class Frozen(Renamed):
    def get_layer_depth(self, name, prefix=""):
        return (1, 3) if name.startswith(prefix) else (2, 3)

    def __init__(self):
        super().__init__()
        self.layers.requires_grad_(False)


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        (Renamed, "placed after the backbone"),
        (Frozen, "no trainable parameter"),
        (lambda: nn.Linear(4, 4), "no get_layer_depth"),
    ],
)
def test_names_that_do_not_fit_raise(backbone, message):
    with pytest.raises(UserError, match=message):
        _wrapper(Detector(backbone()), layer_decay_rate=RATE)


@pytest.mark.parametrize("paramwise", [{"decay_rate": 0.7}, {"layer_decay_rate": 0.7, "num_layers": 12}])
def test_unknown_or_missing_options_raise(paramwise):
    with pytest.raises(UserError, match="paramwise_cfg"):
        LayerDecayConstructor({"optimizer": {"type": "AdamW", "lr": LR, "weight_decay": WD}}, paramwise)


def test_training_step_moves_early_layers_less():
    torch.manual_seed(0)
    model = Detector(CMAEViTDet(window_blocks=(), **TINY))
    wrapper = _wrapper(model, layer_decay_rate=0.1)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    loss = sum(m.square().mean() for m in model.neck(model.backbone(torch.randn(1, 3, 32, 32))))
    wrapper.update_params(loss)
    moved = [
        (model.backbone.blocks[i].mlp.fc2.weight - before[f"backbone.blocks.{i}.mlp.fc2.weight"])
        .abs()
        .max()
        .item()
        for i in range(3)
    ]
    # The first AdamW step has the length of the learning rate (plus the tiny weight decay).
    assert moved[0] / moved[1] == pytest.approx(0.1, rel=0.1)
    assert moved[1] / moved[2] == pytest.approx(0.1, rel=0.1)
