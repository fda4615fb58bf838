"""The layer-decay constructor against a slow rule written by name, and against mmpretrain's own constructor."""

import re
from pathlib import Path

import pytest
import torch
from mmengine.model import BaseModule
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from torch import nn

from cmae_mm.engine.config import load_config
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
CONFIGS = Path(__file__).parents[2] / "configs/coco"


class Detector(BaseModule):
    """What of a Mask R-CNN matters here: a backbone, a neck with channel norms, a head with biases."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        self.neck = SimpleFeaturePyramid(24, 8)
        self.roi_head = nn.Sequential(nn.Conv2d(8, 8, 3), ChannelLayerNorm(8), nn.Linear(8, 4))


def _wrapper(model, weight_decay=WD, **paramwise):
    cfg = {
        "type": "OptimWrapper",
        "constructor": "LayerDecayConstructor",
        "optimizer": {"type": "AdamW", "lr": LR, "weight_decay": weight_decay},
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


def detectron2_rule(name, param, depth, rate, decay, names_of_norms, overrides=("pos_embed",)):
    """Learning rate and weight decay by detectron2's ViTDet configs, written from its description.

    Layers, of names that start with backbone: those that hold pos_embed or patch_embed are 0, blocks.N is N + 1, all
    else depth + 1. Weight decay: 0 for parameters of the norms that it lists (nn.LayerNorm is one, its own norm over
    channels is not), then overrides by the last part of the name; everything else decays, biases too.
    """
    layer = depth + 1
    if name.startswith("backbone"):
        if "pos_embed" in name or "patch_embed" in name:
            layer = 0
        elif ".blocks." in name:
            layer = int(name.split(".blocks.")[1].split(".")[0]) + 1
    decays = name.rsplit(".", 1)[0] not in names_of_norms and name.rsplit(".", 1)[-1] not in overrides
    return LR * rate ** (depth + 1 - layer), decay if decays else 0.0


def _assert_settings(model, wrapper, expected):
    actual = _per_parameter(model, wrapper)
    assert actual.keys() == expected.keys()
    wrong = [n for n in expected if actual[n] != pytest.approx(expected[n], rel=1e-12)]
    assert wrong == []


def _recipe_groups(name):
    """The rules of a recipe and its weight decay."""
    cfg = load_config(CONFIGS / f"{name}_coco.py")
    assert cfg.optim_wrapper.optimizer.lr == LR
    return cfg.optim_wrapper.paramwise_cfg, cfg.optim_wrapper.optimizer.weight_decay


@pytest.mark.parametrize(
    ("recipe", "rate"),
    [("b-p16_lsj-100e", 0.7), ("l-p16_lsj-25e", 0.8), ("h-p16_lsj-75e", 0.9), ("s-p16_lsj-50e", 0.7)],
)
def test_vitdet_recipes_group_as_detectron2_does(recipe, rate):
    rules, decay = _recipe_groups(f"mask-rcnn_vitdet-{recipe}")
    model = Detector(CMAEViTDet(window_blocks=(0,), window_size=2, **TINY))
    norms = {
        n for n, m in model.named_modules() if type(m) is nn.LayerNorm
    }  # the subclass is not on its list
    assert len(norms) == 6
    overrides = ("pos_embed",)
    if recipe.startswith("h"):  # its config resets the overrides and lets norms decay
        norms, overrides = set(), ()
    expected = {
        n: detectron2_rule(n, p, 3, rate, decay, norms, overrides) for n, p in model.named_parameters()
    }
    _assert_settings(model, _wrapper(model, decay, **rules), expected)


@pytest.mark.parametrize("recipe", ["b-p16_lsj-100e", "h-p16_lsj-75e"])
def test_intended_reading_of_vitdet_frees_all_norms_and_positions_only(recipe):
    rules, decay = _recipe_groups(f"mask-rcnn_vitdet-{recipe}")
    model = Detector(CMAEViTDet(window_blocks=(), **TINY))
    wrapper = _wrapper(model, decay, **{**rules, "reading": "intended"})
    free = {n for n, (_, wd) in _per_parameter(model, wrapper).items() if wd == 0}
    norms = {
        f"{n}.{part}"
        for n, m in model.named_modules()
        if isinstance(m, (nn.LayerNorm, ChannelLayerNorm))
        for part in ("weight", "bias")
    }
    assert free == norms | {"backbone.pos_embed"}
    assert any(n.startswith("neck.") for n in norms)
    assert any(n.startswith("roi_head.") for n in norms)


@pytest.mark.parametrize("reading", ["faithful", "intended"])
def test_hybrid_recipe_groups_as_convmae_does(reading):
    from cmae_mm.transfer.hybrid import CMAEHybridViTDet

    rules, decay = _recipe_groups("mask-rcnn_vitdet-hybrid-b_lsj-25e-b16")
    small = dict(img_size=64, widths=(8, 16, 24), depths=(2, 1, 3), num_heads=2, window_blocks=(0,))
    model = Detector(CMAEHybridViTDet(**small, pretrain_img_size=32))
    expected = {}
    for name, _ in model.named_parameters():
        parts = name.split(".")
        layer = 4
        if parts[0] == "backbone":
            if parts[1].startswith("patch_embed") or parts[1] in ("blocks1", "blocks2"):
                layer = 0
            elif parts[1] == "blocks3":
                layer = int(parts[2]) + 1
            elif parts[1] == "pos_embed":  # the rule of ConvMAE's code does not name it
                layer = 4 if reading == "faithful" else 0
        norm = isinstance(model.get_submodule(name.rsplit(".", 1)[0]), nn.LayerNorm)
        free = norm and (parts[0] == "backbone" or reading == "intended")
        wd = 0.0 if free or parts[-1] == "pos_embed" else decay
        expected[name] = (LR * 0.8 ** (4 - layer), wd)
    _assert_settings(model, _wrapper(model, decay, **{**rules, "reading": reading}), expected)


@pytest.mark.parametrize(
    ("name", "rate", "lr"),
    [
        ("mask-rcnn_fpn-vit-b-p16_ms-12e", 0.75, 3e-4),
        ("cascade-mask-rcnn_fpn-vit-s-p16_ms-12e", 0.8, 1e-4),
    ],
)
def test_multiscale_recipes_group_as_beit_does(name, rate, lr):
    cfg = load_config(CONFIGS / f"{name}_coco.py")
    assert cfg.optim_wrapper.optimizer.lr == lr
    rules = cfg.optim_wrapper.paramwise_cfg
    assert rules.layer_decay_rate == rate
    model = Detector(CMAEViTDet(cls_token=True, rel_pos="none", window_blocks=(), layer_scale=0.1, **TINY))
    for reading in ("faithful", "intended"):
        wrapper = _wrapper(model, 0.05, **{**rules, "reading": reading})
        free = {n for n, (_, wd) in _per_parameter(model, wrapper).items() if wd == 0}
        vectors = {n for n, p in model.named_parameters() if p.ndim == 1}
        tokens = {"backbone.pos_embed", "backbone.cls_token"} if reading == "intended" else set()
        assert free == vectors | tokens


def test_recipe_without_layer_decay_has_two_groups():
    cfg = load_config(CONFIGS / "mask-rcnn_fpn-vit-b-p16_lsj-100e_coco.py")
    shared = dict(rel_pos="table", share_tables=True, window_blocks=(0, 1), window_size=2)
    model = Detector(CMAEViTDet(**shared, **TINY))
    wrapper = _wrapper(model, 0.1, **cfg.optim_wrapper.paramwise_cfg)
    assert [(g["lr"], g["weight_decay"]) for g in wrapper.optimizer.param_groups] == [(LR, 0.0), (LR, 0.1)]
    free = {n for n, (_, wd) in _per_parameter(model, wrapper).items() if wd == 0}
    tables = {f"backbone.blocks.{i}.attn.relative_position_bias_table" for i in (0, 2)}  # one a kind
    norms = {
        n
        for n, _ in model.named_parameters()
        if isinstance(model.get_submodule(n.rsplit(".", 1)[0]), nn.LayerNorm)
    }
    assert free == norms | tables | {"backbone.pos_embed"}


def test_swin_in_a_detector_agrees_with_mmpretrain():
    from mmpretrain.engine.optimizers import LearningRateDecayOptimWrapperConstructor
    from mmpretrain.models import SwinTransformer

    swin = SwinTransformer(
        arch=dict(embed_dims=8, depths=[2, 2], num_heads=[1, 2]), img_size=32, out_indices=(0, 1)
    )

    class WithRule(Detector):
        def get_layer_depth(self, name):  # what mmpretrain's constructor asks the model for
            return self.backbone.get_layer_depth(name, prefix="backbone.")

    model = WithRule(swin)
    theirs = LearningRateDecayOptimWrapperConstructor(
        {"optimizer": {"type": "AdamW", "lr": LR, "weight_decay": WD}},
        {"layer_decay_rate": RATE, "norm_decay_mult": 0.0, "bias_decay_mult": 0.0, "flat_decay_mult": 0.0},
    )(model)
    ours = _wrapper(model, layer_decay_rate=RATE, no_decay=("ndim1",))
    _assert_settings(model, ours, _per_parameter(model, theirs))
    assert len(ours.optimizer.param_groups) <= 2 * (4 + 2)


@pytest.mark.parametrize(
    "paramwise",
    [
        {"reading": "literal"},
        {"no_decay": "ndim1"},
        {"no_decay": {"faithful": ()}},
        {"base_rate": "pos_embed"},
    ],
)
def test_rules_that_cannot_be_read_raise(paramwise):
    with pytest.raises(UserError, match=f"paramwise_cfg.{next(iter(paramwise))}"):
        LayerDecayConstructor(
            {"optimizer": {"type": "AdamW", "lr": LR, "weight_decay": WD}},
            {"layer_decay_rate": 0.7, **paramwise},
        )


def test_norm_word_covers_every_kind_of_norm_and_nothing_else():
    model = Detector(CMAEViTDet(window_blocks=(), **TINY))
    model.extra = nn.Sequential(nn.GroupNorm(2, 4), nn.BatchNorm2d(4), nn.SyncBatchNorm(4), nn.Linear(4, 4))
    wrapper = _wrapper(model, layer_decay_rate=RATE, no_decay=("norm",))
    free = {n for n, (_, wd) in _per_parameter(model, wrapper).items() if wd == 0}
    assert {f"extra.{i}.{part}" for i in range(3) for part in ("weight", "bias")} <= free
    assert not any("mlp" in n or "extra.3" in n or "attn" in n for n in free)
