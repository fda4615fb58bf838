"""Every pretraining recipe builds and takes one step at reduced width, and says what its name says."""

import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import OptimWrapper, build_optim_wrapper

import cmae_mm.compat  # noqa: F401

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "configs" / "pretrain").rglob("*.py"))
MAIN = [path for path in RECIPES if path.parent.name != "ablations"]
EFFECTIVE_BATCH, IMAGES = 4096, 1_281_167


def narrow(config):
    """Reduce width and depth, keep everything else: image size, grid, masks, decoders' depth, losses."""
    model = config.model
    if "hybrid" in config.filename:
        model.backbone.arch = dict(widths=(8, 16, 32), depths=(1, 1, 2), heads=2, mlp_ratios=(2, 2, 2))
    else:
        model.backbone.arch = dict(embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=64)
    for name in ("pixel_decoder", "feature_decoder", "neck"):
        decoder = model.get(name)
        if decoder and "embed_dim" in decoder:
            decoder.update(embed_dim=32, decoder_embed_dim=32)
            if "decoder_num_heads" in decoder:
                decoder.update(decoder_num_heads=2)
    if model.get("projector"):
        model.projector.update(in_channels=32, hid_channels=16, out_channels=8)
    if model.head.get("predictor"):
        model.head.predictor.update(in_channels=8, hid_channels=16, out_channels=8)
    config.optim_wrapper.type = OptimWrapper  # what the environment does without a GPU
    config.optim_wrapper.pop("dtype")
    return config


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_builds_and_takes_one_step(path):
    from mmpretrain.registry import MODELS

    torch.manual_seed(0)
    config = narrow(Config.fromfile(path))
    model = revert_sync_batchnorm(MODELS.build(config.model))
    model.init_weights()
    wrapper = build_optim_wrapper(model.train(), config.optim_wrapper)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    side = config.train_dataloader.dataset.size
    batch = {"inputs": torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8)}
    log = model.train_step(batch, wrapper)
    assert all(torch.isfinite(value).all() for value in log.values())
    assert log["loss_rec"] > 0
    trainable = [name for name, p in model.named_parameters() if p.requires_grad]
    unmoved = [name for name in trainable if torch.equal(model.get_parameter(name), before[name])]
    # at the first step of a schedule nothing scales the rate yet: every parameter moves
    if model.head.__dict__.get("con_weight") == 0:  # nothing reaches the contrastive branch then
        unmoved = [n for n in unmoved if not n.startswith(("feature_decoder.", "projector.", "head."))]
    assert [name for name in unmoved if "bias" not in name] == []
    decayed = {g["weight_decay"]: len(g["params"]) for g in wrapper.optimizer.param_groups}
    assert set(decayed) == {0.0, 0.05}


@pytest.mark.parametrize("path", MAIN, ids=lambda path: path.stem)
def test_name_and_numbers_agree(path):
    config = Config.fromfile(path)
    gpus, batch, epochs = map(int, re.search(r"_(\d+)xb(\d+)-amp-coslr-(\d+)e_in1k$", path.stem).groups())
    assert gpus * batch == EFFECTIVE_BATCH == config.auto_scale_lr.base_batch_size
    assert config.train_dataloader.batch_size == batch
    assert config.optim_wrapper.optimizer.lr == pytest.approx(1.5e-4 * EFFECTIVE_BATCH / 256)
    assert config.train_cfg.max_epochs == config.param_scheduler[1].end == epochs
    assert config.param_scheduler[1].T_max == epochs - 40
    assert config.optim_wrapper.dtype == "bfloat16"
    size, patch = re.search(r"vit-(s|b|l|h)-p(\d+)|hybrid-(b)", path.stem).group(1, 2)
    if size:
        zoo = {"s": 384, "b": 768, "l": 1024, "h": 1280}
        decoders = [
            config.model[n] for n in ("pixel_decoder", "feature_decoder", "neck") if n in config.model
        ]
        assert {d.embed_dim for d in decoders} == {zoo[size]}
        assert config.model.backbone.patch_size == config.model.head.patch_size == int(patch)
        assert {d.num_patches for d in decoders} == {(224 // int(patch)) ** 2}


WIDTHS = {"s": (384, 12, 6), "b": (768, 12, 12), "l": (1024, 24, 16), "h": (1280, 32, 16)}


@pytest.mark.parametrize("size", WIDTHS)
def test_encoders_of_the_four_sizes(size):
    """mmpretrain's own arch "s" is 768 wide with 8 blocks: not the ViT-S of the papers."""
    from mmpretrain.models import MAEViT

    path = next((ROOT / "configs" / "pretrain" / "cmae").glob(f"cmae_vit-{size}-p1*_32xb128*-300e_*"))
    arch = Config.fromfile(path).model.backbone.arch
    zoo = MAEViT.arch_zoo[arch]
    width, depth, heads = WIDTHS[size]
    assert (zoo["embed_dims"], zoo["num_layers"], zoo["num_heads"]) == (width, depth, heads)
    assert zoo["feedforward_channels"] == 4 * width


@pytest.mark.parametrize("folder", ["cmae", "mv_mae"])
def test_ablations_differ_from_the_main_recipe_and_from_each_other(folder):
    main = next((ROOT / "configs" / "pretrain" / folder).glob("*vit-b-p16_32xb128-amp-coslr-*e_in1k.py"))
    base = Config.fromfile(main).to_dict()
    base.pop("train_cfg")
    seen = []
    for path in sorted(main.parent.glob("ablations/*.py")):
        config = Config.fromfile(path).to_dict()
        assert config.pop("train_cfg")["max_epochs"] == 300
        assert len(path.read_text().splitlines()) < 20
        assert config not in seen, path
        seen.append(config)
        if "components-both" not in path.name:
            assert config["model"] != base["model"], path
    assert len(seen) > 10
