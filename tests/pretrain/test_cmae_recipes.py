"""The configs of CMAE: full size, small, and the two readings."""

import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper

import cmae_mm.compat  # noqa: F401
from cmae_mm.pretrain import PRESETS

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "configs" / "pretrain" / "cmae"
RELEASED = sorted(RECIPES.glob("cmae_*.py"))
NO_DECAY = re.compile(r"ln|bias|pos_embed|mask_token|cls_token")


def build(config):
    from mmpretrain.registry import MODELS

    return revert_sync_batchnorm(MODELS.build(config.model))


def on_cpu(config):
    """What the environment does without a GPU: plain float32 steps."""
    from mmengine.optim import OptimWrapper

    config.optim_wrapper.type = OptimWrapper
    config.optim_wrapper.pop("dtype")
    return config


def differences(config, name):
    """Fields of a config that do not hold the value of a preset."""
    missing = object()

    def look_up(path):
        node = config
        for key in path.split("."):
            node = node.get(key, missing)
        return node

    return [key for key, value in PRESETS[name].items() if look_up(key) != value]


@pytest.mark.parametrize("path", RELEASED, ids=lambda path: path.stem)
def test_main_recipes_are_the_released_reading(path):
    assert differences(Config.fromfile(path), "released") == []


def test_paper_recipe_differs_in_the_preset_only():
    paper = Config.fromfile(next(RECIPES.glob("cmae-paper_*300e*.py")))
    released = Config.fromfile(next(RECIPES.glob("cmae_vit-b-p16_32xb128-*-300e_*.py")))
    assert differences(paper, "paper") == []
    released.merge_from_dict(PRESETS["paper"])
    assert paper.to_dict() == released.to_dict()
    assert set(PRESETS["paper"]) == set(PRESETS["released"])


@pytest.fixture(scope="module")
def full():
    torch.manual_seed(0)
    config = on_cpu(Config.fromfile(next(RECIPES.glob("cmae_vit-b-p16_32xb128-*-300e_*.py"))))
    model = build(config)
    model.init_weights()
    return config, model.train()


def test_full_size_counts(full):
    _, model = full
    state = model.state_dict()
    assert len(state) == 458
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 121_118_208
    assert sum(p.numel() for p in model.parameters()) == 208_845_824
    expected = {
        "backbone": 150,
        "target_backbone": 148,
        "pixel_decoder": 104,
        "feature_decoder": 32,
        "projector": 8,
        "target_projector": 8,
        "head": 8,
    }
    assert {name: sum(k.startswith(f"{name}.") for k in state) for name in expected} == expected


def test_full_size_initialisation(full):
    _, model = full
    for name, parameter in model.target_backbone.named_parameters():
        assert torch.equal(parameter, model.backbone.get_parameter(name)), name
    assert torch.equal(model.target_projector.fc0.weight, model.projector.fc0.weight)
    qkv = model.backbone.layers[3].attn.qkv
    assert qkv.weight.abs().max() <= (6 / (768 + 2304)) ** 0.5  # xavier over the fused matrix
    assert not qkv.bias.any()
    assert model.backbone.patch_embed.projection.bias.abs().max() <= 1 / 768**0.5
    assert model.projector.fc0.weight.std().item() == pytest.approx(0.0208, rel=0.02)  # torch's default
    assert model.projector.fc0.bias.any()
    assert model.projector.bn0.eps == 1e-6
    table = model.backbone.pos_embed[0]
    assert not table[0].any()
    # Row first: two patches of one row share the first half, two of one column the second.
    assert torch.equal(table[1, :384], table[2, :384])
    assert torch.equal(table[1, 384:], table[15, 384:])


def test_full_size_optimizer_groups(full):
    config, model = full
    wrapper = build_optim_wrapper(model, config.optim_wrapper)
    names = {id(p): n for n, p in model.named_parameters()}
    groups = {g["weight_decay"]: {names[id(p)] for p in g["params"]} for g in wrapper.optimizer.param_groups}
    assert len(wrapper.optimizer.param_groups) == 2
    assert set(groups) == {0.0, 0.05}
    trainable = {n for n, p in model.named_parameters() if p.requires_grad}
    assert groups[0.0] | groups[0.05] == trainable
    assert len(trainable) == 293
    assert groups[0.0] == {n for n in trainable if NO_DECAY.search(n)}
    decayed_vectors = {n for n in groups[0.05] if model.get_parameter(n).ndim == 1}
    assert decayed_vectors == {"projector.bn0.weight", "head.predictor.bn0.weight"}


def test_paper_reading_decays_no_vector(full):
    config, model = full
    wrapper_config = Config(dict(optim_wrapper=config.optim_wrapper)).optim_wrapper
    wrapper_config.paramwise_cfg.flat_decay_mult = PRESETS["paper"][
        "optim_wrapper.paramwise_cfg.flat_decay_mult"
    ]
    groups = build_optim_wrapper(model, wrapper_config).optimizer.param_groups
    wrapper_config.paramwise_cfg.flat_decay_mult = 1.0
    decayed = [p for g in groups if g["weight_decay"] for p in g["params"]]
    assert decayed
    assert all(p.ndim > 1 for p in decayed)


@pytest.mark.parametrize(("iteration", "share"), [(0, 1e-4), (12_520, 1.0), (53_210, 0.5), (93_900, 0.0)])
def test_learning_rate_curve(iteration, share):
    """Warm-up from 1e-4 over 40 epochs of 313 iterations, then half a cosine to 0 over 260 epochs."""
    config = Config.fromfile(next(RECIPES.glob("cmae_vit-b-p16_32xb128-*-300e_*.py")))
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedulers = []
    for rule in config.param_scheduler:
        rule = {k: v for k, v in rule.items() if k != "convert_to_iter_based"}
        schedulers.append(
            rule.pop("type").build_iter_from_epoch(optimizer=optimizer, epoch_length=313, **rule)
        )
    for _ in range(iteration):
        for scheduler in schedulers:
            scheduler.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(share, abs=2e-4)


def test_momentum_is_constant_and_the_cosine_is_there():
    from cmae_mm.pretrain.cmae import cosine_momentum

    assert [cosine_momentum(0.996, 0.996, p) for p in (0, 0.5, 1)] == pytest.approx([0.996] * 3)
    assert [cosine_momentum(0.996, 1.0, p) for p in (0, 0.5, 1)] == pytest.approx([0.996, 0.998, 1.0])
    model = build(Config.fromfile(ROOT / "configs" / "mini" / "cmae_vit-mini-p8_pretrain.py"))
    model.end_momentum = 1.0
    model.momentum_update(progress=1.0)
    assert model.current_momentum == 1.0


def test_full_size_step_on_two_images(full):
    config, model = full
    wrapper = build_optim_wrapper(model, config.optim_wrapper)
    before = {n: p.detach().clone() for n, p in model.named_parameters() if "layers.11." in n or "fc1" in n}
    master = torch.randint(0, 256, (2, 3, 256, 256), dtype=torch.uint8)
    log = model.train_step({"inputs": master, "data_samples": [None, None]}, wrapper)
    assert {"loss", "loss_rec", "loss_con"} <= set(log)
    assert all(torch.isfinite(value) for value in log.values())
    torch.testing.assert_close(log["loss"], log["loss_rec"] + log["loss_con"])
    for name, old in before.items():
        moved = not torch.equal(model.get_parameter(name), old)
        assert moved != name.startswith("target_"), name
    model.momentum_update()
    assert all(
        not torch.equal(model.get_parameter(n), old) for n, old in before.items() if n.startswith("target_")
    )


def test_every_trainable_parameter_gets_a_gradient_in_the_small_recipe():
    config = Config.fromfile(ROOT / "configs" / "mini" / "cmae_vit-mini-p8_pretrain.py")
    model = build(config).train()
    model.init_weights()
    master = torch.randint(0, 256, (4, 3, 72, 72), dtype=torch.uint8)
    losses = model(**model.data_preprocessor({"inputs": master}, True), mode="loss")
    (losses["loss_rec"] + losses["loss_con"]).backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    assert model.backbone.draw_mask(1, torch.device("cpu")).ids_keep.shape == (1, 20)


def test_small_recipe_features_pictures_and_header():
    config = Config.fromfile(ROOT / "configs" / "mini" / "cmae_vit-mini-p8_pretrain.py")
    model = build(config)
    model.init_weights()
    master = torch.randint(0, 256, (2, 3, 72, 72), dtype=torch.uint8)
    images = model.data_preprocessor({"inputs": master}, False)["inputs"]
    with torch.no_grad():
        (tokens,) = model(images)
        assert tokens.shape == (2, 65, model.backbone.embed_dims)
        assert torch.equal(tokens, model(images)[0])  # nothing is drawn
    picture = model.reconstruct([images, images])
    assert picture.image.shape == images.shape
    assert picture.mask.shape == (2, 1, 64, 64)
    assert picture.mask.mean().item() == pytest.approx(44 / 64)
    header = model.backbone_header()
    assert (header["method"], header["patch"], header["image_size"]) == ("cmae", 8, 64)
    assert header["channel_order"] == "bgr"
    assert header["mean"] == (123.675, 116.28, 103.53)
