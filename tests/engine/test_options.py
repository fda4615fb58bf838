"""``--cfg-options``: every key must name a field, at every depth; the rest is mmengine's."""

from glob import glob

import pytest
from mmengine.config import Config

from cmae_mm.engine.config import load_config
from cmae_mm.engine.options import apply_options, parse_options
from cmae_mm.errors import UserError

LINEAR = glob("configs/mini/vit-mini*_linear_imagenet.py")[0]


@pytest.fixture
def cfg():
    return load_config(LINEAR)


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("a=1", 1),
        ("a=1e-3", 1e-3),
        ("a=True", True),
        ("a=None", None),
        ("a=text", "text"),
        ("a=", ""),
        ("a=x=y", "x=y"),
        ("a=[1,2]", [1, 2]),
        ("a=(1,b)", (1, "b")),
        ("a=[(1,2),(3,4)]", [(1, 2), (3, 4)]),
    ],
)
def test_values(word, value):
    found = parse_options([word])["a"]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("word", ["a", "=1", "a=[1", "a=(1,[2)"])
def test_malformed_words_are_named(word):
    with pytest.raises(UserError, match="--cfg-options: '") as caught:
        parse_options([word])
    assert word in str(caught.value)


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (
            "train_cfgs.max_epochs",
            "no 'train_cfgs' in the top level of the config; did you mean 'train_cfg'?",
        ),
        ("train_cfg.max_epoch", "no 'max_epoch' in train_cfg; did you mean 'max_epochs'?"),
        ("optim_wrapper.optimiser.lr", "no 'optimiser' in optim_wrapper; did you mean 'optimizer'?"),
        ("optim_wrapper.optimizer.lrs", "no 'lrs' in optim_wrapper.optimizer; did you mean 'lr'?"),
        ("model.backbone.drop_path", "in model.backbone; did you mean 'drop_path_rate'?"),
        ("model.head.loss.use_sigmoids", "in model.head.loss; did you mean 'use_sigmoid'?"),
        (
            "train_dataloader.dataset.pipeline.1.scales",
            "in train_dataloader.dataset.pipeline.1; did you mean 'scale'?",
        ),
        (
            "train_dataloader.dataset.pipeline.9.scale",
            "no '9' in train_dataloader.dataset.pipeline; known there: 0, 1",
        ),
        ("train_dataloader.num_worker", "in train_dataloader; did you mean 'num_workers'?"),
        ("zzz", "no 'zzz' in the top level of the config; known there: "),
        ("train_cfg.max_epochs.x", "no 'x' in train_cfg.max_epochs"),
    ],
)
def test_unknown_fields_are_refused_at_every_depth(cfg, key, expected):
    before = cfg.pretty_text
    with pytest.raises(UserError) as caught:
        apply_options(cfg, {key: 1})
    assert str(caught.value).startswith(f"--cfg-options: '{key}' names no field: ")
    assert expected in str(caught.value)
    assert cfg.pretty_text == before


def test_one_wrong_key_changes_nothing(cfg):
    epochs = cfg.train_cfg.max_epochs
    with pytest.raises(UserError):
        apply_options(cfg, {"train_cfg.max_epochs": epochs + 1, "wrong": 1})
    assert cfg.train_cfg.max_epochs == epochs


@pytest.mark.parametrize(
    "key",
    [
        "train_cfg.max_epochs",
        "train_dataloader.dataset.pipeline.1.scale",  # in a list
        "model.backbone.drop_rate",  # an argument of the class above that the config does not spell
        "model.backbone.frozen_stages",
        "model.backbone.backbone_file",  # of the class itself
        "optim_wrapper.accumulative_counts",
        "optim_wrapper.clip_grad.max_norm",  # below a field that only the class knows
        "optim_wrapper.paramwise_cfg.norm_decay_mult",  # read before the class is called
        "train_dataloader.pin_memory",  # of torch's loader, which no type names
        "train_cfg.val_begin",  # of the loop
        "default_hooks.logger.interval",
        "model.head.loss.class_weight",
        "compile",  # of the runner
        "auto_scale_lr.enable",
    ],
)
def test_fields_that_exist_are_set(cfg, key):
    apply_options(cfg, {key: 7})
    node = cfg
    for part in key.split("."):
        node = node[int(part)] if isinstance(node, list) else node[part]
    assert node == 7


def test_options_work_through_load_config():
    cfg = load_config(LINEAR, parse_options(["train_cfg.max_epochs=2", "model.backbone.arch.num_layers=1"]))
    assert (cfg.train_cfg.max_epochs, cfg.model.backbone.arch.num_layers) == (2, 1)


def test_a_models_own_test_cfg_is_free_form():
    cfg = Config(dict(model=dict(type="X", test_cfg=dict(mode="whole"))))
    apply_options(cfg, {"model.test_cfg.crop_size": (96, 96), "model.test_cfg.mode": "slide"})
    assert cfg.model.test_cfg == dict(mode="slide", crop_size=(96, 96))
    with pytest.raises(UserError, match="test_cgf"):
        apply_options(cfg, {"model.test_cgf.crop_size": 1})
