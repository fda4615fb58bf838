"""Every ADE20K recipe at reduced width: it builds, takes one step of its optimizer, and keeps its published numbers."""

import re
from pathlib import Path

import cmae_mm.compat  # noqa: F401  (before torchvision, which mmseg imports)

# isort: split
import pytest
import torch
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import AmpOptimWrapper, OptimWrapper, build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import PixelData

from cmae_mm.engine.config import load_config

CONFIGS = Path(__file__).parents[2] / "configs"
RECIPES = sorted((CONFIGS / "ade20k").glob("upernet_*.py"))
# learning rate, rate of layer decay, drop path, layer scale, mIoU: of reference code, see the docstrings
PUBLISHED = {
    "vit-b-p16": (1e-4, 0.65, 0.1, 1.0),
    "vit-s-p16": (1e-4, 0.65, 0.1, 1.0),
    "vit-l-p16": (2e-5, 0.95, 0.2, 1.0),
    "vit-h-p14": (2e-5, 0.95, 0.3, 1.0),
    "hybrid-b": (1e-4, 0.75, 0.2, 1.0),
    "beit-b-p16": (7e-4, 0.65, 0.1, 0.1),
    "beit-b-p16-ft22k": (3e-5, 0.9, 0.1, 0.1),
    "beit-l-p16-ft22k": (2e-5, 0.95, 0.2, 1e-6),
    "cae-b-p16-300e": (3e-4, 0.65, 0.1, 0.1),
    "cae-b-p16-800e": (2e-4, 0.65, 0.1, 0.1),
    "cae-b-p16-1600e": (1e-4, 0.65, 0.1, 0.1),
    "cae-l-p16": (4e-5, 0.95, 0.15, 1e-5),
    "dbot-b-p16": (1e-4, 0.65, 0.2, 1.0),
    "dbot-l-p16": (2e-5, 0.95, 0.2, 1.0),
    "long-seq-mae-b-p16": (8e-5, 0.8, 0.1, 1.0),
    "simmim-swin-b": (6e-5, None, 0.3, None),
}
SWIN, HYBRID = "simmim-swin-b", "hybrid-b"


def _who(path):
    return re.match(r"upernet_(.+?)_\dxb\d", path.stem)[1]


def _shrink(cfg, who):
    """Width 4 for each head, few classes, small crops; depth, blocks of the maps and everything else stay."""
    model, backbone = cfg.model, cfg.model.backbone
    side = 4 * 14 if who == "vit-h-p14" else 64
    model.data_preprocessor.size = (side, side)
    if who == SWIN:
        backbone.embed_dims, widths = 16, [16, 32, 64, 128]
    elif who == HYBRID:
        backbone.update(img_size=side, widths=(8, 12, 24))
        widths = [8, 12, 24, 24]
    else:
        width = 4 * backbone.num_heads
        backbone.update(img_size=side, embed_dims=width)
        model.neck.embed_dim, widths = width, [width] * 4
    model.decode_head.update(in_channels=widths, channels=8)
    model.auxiliary_head.update(in_channels=widths[2], channels=8)
    if model.test_cfg.mode == "slide":
        model.test_cfg.update(crop_size=(side, side), stride=(side // 3 * 2, side // 3 * 2))
    return side


def _batch(side, count=2):
    from mmseg.structures import SegDataSample

    torch.manual_seed(0)
    samples = []
    for _ in range(count):
        shape = (side, side)
        sample = SegDataSample(metainfo=dict(img_shape=shape, ori_shape=shape, pad_shape=shape))
        labels = torch.randint(0, 150, (1, *shape))
        labels[:, :4] = 255
        sample.gt_sem_seg = PixelData(data=labels)
        samples.append(sample)
    return dict(
        inputs=list(torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8)), data_samples=samples
    )


def test_every_recipe_has_its_published_numbers_here():
    assert {_who(p) for p in RECIPES} == set(PUBLISHED)


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_recipe_builds_at_reduced_width_and_takes_a_step(path):
    cfg, who = load_config(path), _who(path)
    side = _shrink(cfg, who)
    init_default_scope("mmseg")
    torch.manual_seed(0)
    model = revert_sync_batchnorm(MODELS.build(cfg.model))
    model.init_weights()
    wrapper_cfg = {k: v for k, v in cfg.optim_wrapper.items() if k != "dtype"}
    wrapper = build_optim_wrapper(model, {**wrapper_cfg, "type": OptimWrapper})  # mixed precision needs a GPU
    before = {k: v.detach().clone() for k, v in model.named_parameters()}
    losses = model.train().train_step(_batch(side), wrapper)
    assert {"decode.loss_ce", "aux.loss_ce"} <= losses.keys()
    assert all(torch.isfinite(torch.as_tensor(v)).all() for v in losses.values())
    # After AdamW's first step whatever has a gradient has moved; drop path may have dropped a whole branch.
    moved = [k for k, v in model.named_parameters() if not torch.equal(v, before[k])]
    assert len(moved) > 0.8 * len(before)
    _check_rates(cfg, who, model, wrapper)
    if who == "vit-s-p16":
        with torch.no_grad():
            result = model.eval().test_step(_batch(side + 30, 1))[0]
        assert result.pred_sem_seg.data.shape == (1, side + 30, side + 30)


def _check_rates(cfg, who, model, wrapper):
    rate, decay, drop_path, scale = PUBLISHED[who]
    groups, backbone = wrapper.optimizer.param_groups, cfg.model.backbone
    assert cfg.optim_wrapper.optimizer.lr == rate
    assert backbone.drop_path_rate == drop_path
    assert backbone.get("layer_scale") == scale
    if decay is None:
        return
    depth = len(model.backbone.blocks3 if who == HYBRID else model.backbone.blocks)
    names = {id(p): n for n, p in model.named_parameters()}
    by_name = {names[id(p)]: (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    assert set(by_name) == set(names.values())
    stem = "patch_embed1.proj.weight" if who == HYBRID else "patch_embed.proj.weight"
    assert by_name[f"backbone.{stem}"] == pytest.approx((rate * decay ** (depth + 1), 0.05))
    block = f"backbone.blocks{'3' if who == HYBRID else ''}.{depth - 1}.attn"
    # BEiT's rule as its code has it: tables decay, vectors do not.
    assert by_name[f"{block}.relative_position_bias_table"] == pytest.approx((rate * decay, 0.05))
    assert by_name[f"{block}.qkv.bias"] == pytest.approx((rate * decay, 0.0))
    assert by_name["decode_head.conv_seg.weight"] == pytest.approx((rate, 0.05))
    if "backbone.pos_embed" in by_name:
        assert by_name["backbone.pos_embed"] == pytest.approx((rate * decay ** (depth + 1), 0.05))


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_recipe_keeps_the_protocol(path):
    cfg = load_config(path)
    thousands, crop = (int(n) for n in re.search(r"-(\d+)k_ade20k-(\d+)x", path.stem).groups())
    steps = thousands * 1000
    assert cfg.optim_wrapper.type is AmpOptimWrapper
    assert cfg.optim_wrapper.dtype == "bfloat16"
    assert cfg.train_cfg.max_iters == cfg.param_scheduler[1].end == steps
    assert cfg.param_scheduler[0].end == cfg.param_scheduler[1].begin == steps * 1500 // 160000
    assert cfg.train_cfg.val_interval == cfg.default_hooks.checkpoint.interval == steps // 10
    assert cfg.auto_scale_lr.base_batch_size == 8 * cfg.train_dataloader.batch_size == 16
    assert cfg.model.data_preprocessor.size == (crop, crop)
    assert cfg.train_dataloader.dataset.pipeline[3].crop_size == (crop, crop)
    assert cfg.val_dataloader.dataset.pipeline[1].scale[1] == (640 if crop == 640 else 512)
    assert cfg.test_dataloader.dataset.pipeline == cfg.val_dataloader.dataset.pipeline
    assert cfg.protocol.startswith("SEG-UP")
    assert cfg.protocol in path.read_text()
    if cfg.model.test_cfg.mode == "slide":
        assert cfg.model.test_cfg.crop_size == (crop, crop)
        assert cfg.model.test_cfg.stride == ({512: 341, 640: 426, 518: 345}[crop],) * 2
        assert cfg.model.backbone.img_size == crop
    scales = [step.scale for step in cfg.tta_pipeline[1].transforms[0]]
    base = cfg.val_dataloader.dataset.pipeline[1].scale
    assert scales == [tuple(int(r * s) for s in base) for r in (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)]
    assert cfg.model.decode_head.num_classes == cfg.model.auxiliary_head.num_classes == 150
