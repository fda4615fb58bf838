"""Every ImageNet fine-tuning recipe at reduced width: it builds, takes a step, and keeps its published numbers."""

import re
from pathlib import Path

import cmae_mm.compat  # noqa: F401  (before torchvision, which mmpretrain imports)

# isort: split
import math

import numpy as np
import pytest
import torch
from mmengine.dataset import Compose
from mmengine.evaluator import Evaluator
from mmengine.optim import AmpOptimWrapper, OptimWrapper, build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from mmpretrain.datasets import RandAugment
from mmpretrain.registry import TRANSFORMS
from mmpretrain.structures import DataSample
from PIL import Image
from timm.data.auto_augment import NAME_TO_OP

from cmae_mm.engine.config import load_config

CONFIGS = Path(__file__).parents[2] / "configs/imagenet"
RECIPES = sorted([*CONFIGS.glob("finetune_*.py"), *CONFIGS.glob("partial_*.py")])
# learning rate at batch 1024 (Swin: 2048), rate of layer decay, drop path: of reference code, see the docstrings
PUBLISHED = {
    "finetune_vit-b-p16-100e": (2e-3, 0.65, 0.1),
    "finetune_vit-b-p16-100e-paper": (4e-3, 0.75, 0.1),
    "finetune_vit-b-p16-100e-cmae-300e": (2e-3, 0.65, 0.1),
    "finetune_vit-b-p16-100e-cmae-1600e": (1e-3, 0.65, 0.1),
    "finetune_vit-l-p16-50e": (4e-3, 0.75, 0.2),
    "finetune_vit-l-p16-50e-paper": (4e-3, 0.75, 0.1),
    "finetune_vit-h-p14-50e": (4e-3, 0.75, 0.3),
    "finetune_vit-h-p14-50e-paper": (4e-3, 0.75, 0.2),
    "finetune_vit-s-p16-100e": (2e-3, 0.65, 0.1),
    "finetune_beit-b-p16-100e": (4e-3, 0.65, 0.1),
    "finetune_cae-b-p16-100e": (8e-3, 0.65, 0.1),
    "finetune_hybrid-b-100e": (2e-3, 0.65, 0.1),
    "finetune_swin-b-w7-100e": (5e-3, 0.9, 0.1),
    "partial_vit-b-p16-100e": (4e-3, 0.75, 0.1),
    "partial_vit-l-p16-50e": (4e-3, 0.75, 0.1),
}
SIZES = {"s": (384, 12, 6), "b": (768, 12, 12), "l": (1024, 24, 16), "h": (1280, 32, 16)}
PROTOCOLS = {"hybrid": "IN-FT", "swin": "IN-FT-SWIN", "partial": "IN-PARTIAL"}


def who(path):
    return re.sub(r"_8xb\d+-amp-coslr", "", path.stem).removesuffix("_in1k")


def built(path):
    """A recipe's model at width 4 for each head, its wrapper and the side of its images; depth stays."""
    cfg = load_config(path)
    init_default_scope("mmpretrain")
    model, backbone = cfg.model, cfg.model.backbone
    side = 32
    if "swin" in who(path):
        side, width = 64, 128
        backbone.update(img_size=side, arch=dict(embed_dims=16, depths=[2, 2, 2, 2], num_heads=[1, 2, 4, 8]))
        backbone.stage_cfgs.block_cfgs.update(window_size=2)
    elif "hybrid" in who(path):
        backbone.update(img_size=side, widths=(8, 12, 24))
        width = 24
    else:
        side = 28 if backbone.patch_size == 14 else 32
        width, depth, heads = SIZES[re.search(r"(?:vit|beit|cae)-(\w)-", path.stem)[1]]
        assert model.head.in_channels == width
        width = 4 * heads
        backbone.update(img_size=side)
        backbone.arch = dict(
            embed_dims=width, num_layers=depth, num_heads=heads, feedforward_channels=2 * width
        )
    model.head.update(in_channels=width, num_classes=10)
    torch.manual_seed(0)
    model = MODELS.build({**model, "data_preprocessor": {**cfg.data_preprocessor, "num_classes": 10}})
    model.init_weights()
    wrapper_cfg = {k: v for k, v in cfg.optim_wrapper.items() if k != "dtype"}
    return cfg, model, build_optim_wrapper(model, {**wrapper_cfg, "type": OptimWrapper}), side


def batch(side, count=4):
    samples = [DataSample().set_gt_label(i) for i in range(count)]
    return dict(inputs=torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8), data_samples=samples)


def settings(model, wrapper):
    names = {id(p): n for n, p in model.named_parameters()}
    groups = wrapper.optimizer.param_groups
    found = {names[id(p)]: (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    assert len(found) == sum(len(g["params"]) for g in groups)
    return found


def depth_of(name, blocks):
    """The rule of MAE, SimMIM and ConvMAE, by name: 0 the embedding and the stem, i + 1 block i, then the rest."""
    if not name.startswith("backbone."):
        return blocks + 1
    if found := re.match(r"backbone\.(?:layers|blocks3)\.(\d+)\.", name):
        return int(found[1]) + 1
    if found := re.match(r"backbone\.stages\.(\d+)\.(?:blocks\.(\d+)|downsample)\.", name):
        return 2 * int(found[1]) + (int(found[2]) + 1 if found[2] else 2)
    stem = ("cls_token", "pos_embed", "patch_embed", "blocks1", "blocks2")
    return 0 if name.split(".")[1].startswith(stem) else blocks + 1


def exempt(name, param, recipe):
    """What has no weight decay, by name."""
    last = name.rsplit(".", 1)[-1]
    if "cmae" in recipe:  # names with `.ln` or `.bias`; the norm after pooling is called fc_norm there
        return (
            last == "bias"
            or ".ln" in name.replace("backbone.ln2", "fc_norm")
            or "token" in name
            or "pos" in last
        )
    if "swin" in recipe:
        return last == "bias" or ".norm" in name or last == "relative_position_bias_table"
    return param.ndim == 1 or last in ("pos_embed", "cls_token")


def test_every_recipe_has_its_published_numbers_here():
    assert {who(p) for p in RECIPES} == set(PUBLISHED)


@pytest.mark.parametrize("path", RECIPES, ids=who)
def test_recipe_takes_a_step_with_exactly_these_groups(path):
    cfg, model, wrapper, side = built(path)
    rate, decay, drop_path = PUBLISHED[who(path)]
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(rate, rel=1e-12)
    assert cfg.model.backbone.drop_path_rate == drop_path
    blocks = {"swin": 8, "hybrid": 11}.get(re.split("[_-]", who(path))[1])
    blocks = blocks or len(model.backbone.layers)
    found = settings(model, wrapper)
    assert set(found) == {n for n, p in model.named_parameters() if p.requires_grad}
    for name, param in model.named_parameters():
        if param.requires_grad:
            expected = (
                rate * decay ** (blocks + 1 - depth_of(name, blocks)),
                0.05 * (not exempt(name, param, who(path))),
            )
            assert found[name] == pytest.approx(expected, rel=1e-12), name
    before = {k: v.detach().clone() for k, v in model.named_parameters()}
    assert len(model.data_preprocessor.batch_augments.augments) == 2
    losses = model.train().train_step(batch(side), wrapper)
    assert torch.isfinite(losses["loss"])
    still = {k for k, v in model.named_parameters() if torch.equal(v, before[k])}
    assert {n for n, p in model.named_parameters() if not p.requires_grad} <= still
    assert len(set(found) & still) <= 0.2 * len(found)  # drop path may have dropped a whole branch
    with torch.no_grad():
        assert model.eval().test_step(batch(side))[0].pred_score.shape == (10,)


@pytest.mark.parametrize("path", RECIPES, ids=who)
def test_recipe_keeps_the_protocol(path):
    cfg = load_config(path)
    epochs = int(re.search(r"-(\d+)e[-_]", path.stem)[1])
    gpus, size = (int(n) for n in re.search(r"_(\d)xb(\d+)-", path.stem).groups())
    warm_up, cosine = cfg.param_scheduler
    assert cfg.train_cfg.max_epochs == cosine.end == epochs
    assert warm_up.end == cosine.begin == (20 if re.search("swin|beit", who(path)) else 5)
    assert cosine.T_max == cosine.end - cosine.begin
    assert warm_up.convert_to_iter_based
    assert cosine.convert_to_iter_based
    if "eta_min" not in cosine:
        assert cosine.eta_min_ratio * cfg.optim_wrapper.optimizer.lr == pytest.approx(1e-6)
    assert cfg.optim_wrapper.type is AmpOptimWrapper
    assert cfg.optim_wrapper.dtype == "bfloat16"
    assert cfg.auto_scale_lr.base_batch_size == gpus * cfg.train_dataloader.batch_size == gpus * size
    assert cfg.auto_scale_lr.enable
    key = next((v for k, v in PROTOCOLS.items() if k in who(path)), "IN-FT")
    assert cfg.protocol == key
    assert cfg.default_hooks.checkpoint.save_best == "accuracy/top1"
    assert cfg.model.head.loss.label_smooth_val == 0.1
    assert [a["alpha"] for a in cfg.model.train_cfg.augments] == [0.8, 1.0]
    if "vit" in who(path):
        kind = cfg.model.backbone.type
        arch = kind.arch_zoo[cfg.model.backbone.arch]
        width, depth, heads = SIZES[re.search(r"vit-(\w)-", path.stem)[1]]
        assert (arch["embed_dims"], arch["num_layers"], arch["num_heads"]) == (width, depth, heads)
        assert arch["feedforward_channels"] == 4 * width


def test_cmae_intended_reading_is_that_of_mae():
    path = CONFIGS / "finetune_vit-b-p16_8xb128-amp-coslr-100e-cmae-300e_in1k.py"
    cfg, model, _, _ = built(path)
    wrapper_cfg = {k: v for k, v in cfg.optim_wrapper.items() if k != "dtype"}
    wrapper_cfg["paramwise_cfg"] = {**wrapper_cfg["paramwise_cfg"], "reading": "intended"}
    found = settings(model, build_optim_wrapper(model, {**wrapper_cfg, "type": OptimWrapper}))
    _, other, wrapper, _ = built(CONFIGS / "finetune_vit-b-p16_8xb128-amp-coslr-100e_in1k.py")
    assert found == settings(other, wrapper)


def test_schedule_is_that_of_mae_in_every_iteration_and_layer():
    """Warm-up from almost 0, then min + (rate - min) (1 + cos(pi t)) / 2, all scaled by layer; by iteration."""
    cfg, _, wrapper, _ = built(CONFIGS / "finetune_vit-b-p16_8xb128-amp-coslr-100e_in1k.py")
    length, lowest = 3, 1e-6
    steps = []
    for entry in cfg.param_scheduler:
        options = {k: v for k, v in entry.items() if k not in ("type", "convert_to_iter_based")}
        steps.append(entry.type.build_iter_from_epoch(wrapper, **options, epoch_length=length))
    seen = []
    for _ in range(100 * length):
        seen.append([g["lr"] / g["lr_scale"] for g in wrapper.optimizer.param_groups])
        for step in steps:
            step.step()
    for i, rates in enumerate(seen):
        if i < 5 * length:  # the first step is 1e-4 of the rate, the last one the rate
            expected = 2e-3 * (1e-4 + (1 - 1e-4) * i / (5 * length - 1))
        else:
            part = (i - 5 * length) / (95 * length)
            expected = lowest + (2e-3 - lowest) * (1 + math.cos(math.pi * part)) / 2
        assert rates == pytest.approx([expected] * len(rates), rel=1e-6), i


def photograph(side=224):
    """A smooth picture with edges: what operations do to it differs."""
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(30, 226, (9, 9, 3), dtype=np.uint8))
    return np.array(small.resize((side, side), Image.Resampling.BICUBIC))


# Operation, mmpretrain's strength, timm's name and strength; signs are drawn evenly, so opposite ones are the same.
OPERATIONS = [
    ("AutoContrast", {}, "AutoContrast", ()),
    ("Equalize", {}, "Equalize", ()),
    ("Invert", {}, "Invert", ()),
    ("Rotate", dict(angle=27.0), "Rotate", (-27.0,)),
    ("Posterize", dict(bits=0.4), "PosterizeIncreasing", (1,)),
    ("Solarize", dict(thr=25.6), "SolarizeIncreasing", (26,)),
    ("SolarizeAdd", dict(magnitude=99), "SolarizeAdd", (99,)),
    ("ColorTransform", dict(magnitude=0.81), "ColorIncreasing", (1.81,)),
    ("Contrast", dict(magnitude=-0.81), "ContrastIncreasing", (0.19,)),
    ("Brightness", dict(magnitude=0.81), "BrightnessIncreasing", (1.81,)),
    ("Sharpness", dict(magnitude=0.81), "SharpnessIncreasing", (1.81,)),
    ("Shear", dict(magnitude=0.27, direction="horizontal"), "ShearX", (-0.27,)),
    ("Shear", dict(magnitude=0.27, direction="vertical"), "ShearY", (-0.27,)),
    ("Translate", dict(magnitude=0.405, direction="horizontal"), "TranslateXRel", (-0.405,)),
    ("Translate", dict(magnitude=0.405, direction="vertical"), "TranslateYRel", (-0.405,)),
]


@pytest.mark.parametrize(
    ("name", "strength", "timm_name", "values"), OPERATIONS, ids=[o[2] for o in OPERATIONS]
)
def test_randaugment_does_what_timm_does_at_level_9(name, strength, timm_name, values):
    image = photograph()
    options = dict(prob=1.0, **strength)
    if name in ("Rotate", "Shear", "Translate"):
        options |= dict(pad_val=[104, 116, 124], interpolation="bicubic")
    if name == "Rotate" or ("magnitude" in strength and name != "SolarizeAdd"):
        options |= dict(random_negative_prob=0.0)
    ours = TRANSFORMS.build(dict(type=name, **options))(dict(img=image[..., ::-1].copy()))["img"][..., ::-1]
    fill = dict(fillcolor=(124, 116, 104), resample=Image.Resampling.BICUBIC)
    theirs = np.array(NAME_TO_OP[timm_name](Image.fromarray(image), *values, **fill))
    difference = np.abs(ours.astype(float) - theirs).mean()
    assert difference < 2.0  # grey levels; OpenCV's and Pillow's bicubic differ at the border of the picture
    assert np.abs(image.astype(float) - theirs).mean() > 4 * difference


def test_randaugment_draws_from_timm_s_fifteen_operations():
    cfg = load_config(CONFIGS / "finetune_vit-b-p16_8xb128-amp-coslr-100e_in1k.py")
    step = next(t for t in cfg.train_pipeline if t["type"] is RandAugment)
    drawn = RandAugment(**{k: v for k, v in step.items() if k != "type"})
    assert [p["type"] for p in drawn.policies] == [o[0] for o in OPERATIONS]
    assert all(t.prob == 0.5 for t in drawn.transforms)
    assert (step.num_policies, step.magnitude_level, step.magnitude_std, step.total_level) == (2, 9, 0.5, 10)


def test_pipelines_end_in_224_px(mini_data):
    cfg = load_config(CONFIGS / "finetune_vit-b-p16_8xb128-amp-coslr-100e_in1k.py")
    path = next((mini_data / "imagenet/train").rglob("*.jpg"))
    for pipeline in (cfg.train_pipeline, cfg.test_pipeline):
        out = Compose(pipeline)(dict(img_path=str(path), gt_label=3))
        assert out["inputs"].shape == (3, 224, 224)
        assert out["inputs"].dtype == torch.uint8
        assert out["data_samples"].gt_label.item() == 3
    resize, crop = cfg.test_pipeline[1:3]
    assert (resize.scale, resize.interpolation, resize.backend, crop.crop_size) == (
        256,
        "bicubic",
        "pillow",
        224,
    )


@pytest.mark.parametrize(
    "config", [RECIPES[0], CONFIGS.parent / "mini/vit-mini-p8_finetune_imagenet.py"], ids=str
)
def test_accuracy_counts_the_largest_logit_whatever_its_sign(config):
    evaluator = Evaluator(load_config(config).val_evaluator)
    rng = np.random.default_rng(0)
    logits = torch.tensor(rng.normal(-20, 1, (50, 10)), dtype=torch.float32)
    labels = [int(k) for k in rng.integers(0, 10, 50)]
    samples = [
        DataSample().set_gt_label(k).set_pred_score(row).to_dict()
        for k, row in zip(labels, logits, strict=True)
    ]
    evaluator.process(data_samples=samples)
    found = evaluator.evaluate(50)
    ranks = [sum(v > row[k] for v in row) for k, row in zip(labels, logits.tolist(), strict=True)]
    assert found["accuracy/top1"] == pytest.approx(2 * sum(r == 0 for r in ranks))
    assert found["accuracy/top5"] == pytest.approx(2 * sum(r < 5 for r in ranks))
