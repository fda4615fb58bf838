"""Recipes are found, read, and pointed at data, a backbone file and a work dir; the device decides the rest."""

import os
import re
from glob import glob

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import AmpOptimWrapper, OptimWrapper

from cmae_mm.engine import environment
from cmae_mm.engine.checkpoint_checks import check_same_model
from cmae_mm.engine.config import load_config, name_classes, prepare_work_dir, set_backbone, set_data_root
from cmae_mm.errors import UserError

LINEAR = glob("configs/mini/vit-mini*_linear_imagenet.py")[0]
COCO = glob("configs/mini/mask-rcnn*_coco.py")[0]
ADE = glob("configs/mini/upernet*_ade20k.py")[0]
PRETRAIN = glob("configs/mini/cmae_vit-mini*_pretrain.py")[0]


def test_a_wrong_path_gets_a_suggestion():
    with pytest.raises(UserError, match=re.escape(f"no such config file; did you mean {LINEAR}?")):
        load_config(LINEAR.replace("mini/", "").replace("_linear", "-linear"))
    with pytest.raises(UserError, match="no such config file; recipes are under configs/"):
        load_config("zzzzzz")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("model = dict(", "SyntaxError"),
        ("model = undefined", "NameError: name 'undefined'"),
        ("from no_such_library import x\nmodel = dict(type=x)", "no_such_library"),
        ("from mmengine.optim import NoSuchClass\nmodel = dict(type=NoSuchClass)", "NoSuchClass"),
        ("from mmengine.config import read_base\nwith read_base():\n    from .nothing import *", "nothing"),
        ("raise ValueError", "ValueError"),
    ],
)
def test_broken_configs_are_named(tmp_path, text, what):
    path = tmp_path / "broken.py"
    path.write_text(text)
    with pytest.raises(UserError, match=what) as caught:
        load_config(path)
    assert str(caught.value).startswith(f"{path}: the config cannot be read (")
    assert "\n" not in str(caught.value)


def paths_in(node):
    if isinstance(node, dict):
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        return [p for item in node for p in paths_in(item)]
    return [node] if isinstance(node, str) and node.startswith(("data/", "/new")) else []


@pytest.mark.parametrize("name", [LINEAR, COCO, ADE])
def test_data_root_is_replaced_everywhere(name):
    cfg = load_config(name)
    old = paths_in(cfg.to_dict())
    assert len(old) > 2
    root = cfg.data_root
    set_data_root(cfg, "/new/place")
    assert paths_in(cfg.to_dict()) == [p.replace(root, "/new/place/") for p in old]


def test_data_root_is_a_folder_not_a_prefix_of_names():
    paths = ["data/coco/train", "data/coco_stuff/train", "data/coco"]
    cfg = Config(dict(data_root="data/coco", sets=paths, pair=(dict(root="data/coco/x"), "data/coco")))
    set_data_root(cfg, "/new")
    assert cfg.sets == ["/new/train", "data/coco_stuff/train", "/new/"]
    assert cfg.pair[0].root == "/new/x"
    assert cfg.data_root == "/new/"


def test_data_root_of_a_config_without_one():
    with pytest.raises(UserError, match="--data-root: this config has no top-level data_root"):
        set_data_root(Config(dict(model=dict())), "/new")


def test_backbone_is_set_only_where_it_is_read(backbone_file, tmp_path):
    cfg = load_config(LINEAR)
    set_backbone(cfg, backbone_file)
    assert cfg.model.backbone.backbone_file == str(backbone_file)
    with pytest.raises(UserError, match="reads no backbone file; use a transfer config"):
        set_backbone(load_config(PRETRAIN), backbone_file)
    with pytest.raises(UserError, match="no such file"):
        set_backbone(cfg, tmp_path / "none.safetensors")


def test_a_config_that_was_written_down_is_the_same_again(tmp_path):
    cfg = load_config(PRETRAIN)
    cfg.custom_hooks = [dict(type=OptimWrapper), *(cfg.get("custom_hooks") or [])]  # any class
    cfg.train_cfg.more = (dict(type=AmpOptimWrapper), 1)
    name_classes(cfg)
    cfg.dump(tmp_path / "written.py")
    again = load_config(tmp_path / "written.py")
    assert again.custom_hooks[0]["type"] is OptimWrapper
    assert again.train_cfg.more[0]["type"] is AmpOptimWrapper
    assert again.model.type is load_config(PRETRAIN).model.type
    assert again.keys() == cfg.to_dict().keys()
    name_classes(again)  # by where they are defined, not by where the recipe imported them from
    again.dump(tmp_path / "again.py")
    third = load_config(tmp_path / "again.py")
    name_classes(third)
    assert third.pretty_text == again.pretty_text


def test_work_dir_is_ignored_by_git_and_kept(tmp_path):
    folder = prepare_work_dir(tmp_path / "a" / "b")
    assert "*" in (folder / ".gitignore").read_text().splitlines()
    (folder / ".gitignore").write_text("own")
    prepare_work_dir(folder)
    assert (folder / ".gitignore").read_text() == "own"
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be used as work dir"):
        prepare_work_dir(tmp_path / "file")


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.parametrize("kind", [AmpOptimWrapper, "AmpOptimWrapper"])
def test_mixed_precision_is_left_out_on_a_cpu(no_gpu, kind):
    wrapper = dict(type=kind, dtype="bfloat16", loss_scale="dynamic", optimizer=dict(lr=1.0))
    cfg = Config(dict(optim_wrapper=wrapper))
    assert environment.adapt(cfg) == ["no GPU here: mixed precision is off, the run computes in float32"]
    assert dict(cfg.optim_wrapper) == {"type": OptimWrapper, "optimizer": {"lr": 1.0}}


def test_a_plain_config_is_left_alone_on_a_cpu(no_gpu):
    cfg = Config(dict(optim_wrapper=dict(type=OptimWrapper)))
    assert environment.adapt(cfg) == []
    assert environment.adapt(cfg, amp=True) == [
        "no GPU here: mixed precision is off, the run computes in float32"
    ]
    assert cfg.optim_wrapper.type is OptimWrapper
    assert environment.adapt(Config(dict())) == []


def test_amp_on_request_on_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    cfg = Config(dict(optim_wrapper=dict(type=OptimWrapper)))
    environment.adapt(cfg, amp=True)
    wrapper = dict(cfg.optim_wrapper)
    assert wrapper.pop("loss_scale") == {"enabled": False}  # bfloat16 cannot overflow where float32 does not
    assert wrapper == {"type": AmpOptimWrapper, "dtype": "bfloat16"}


@pytest.mark.parametrize("scale", [{}, dict(loss_scale=512.0)])
def test_float16_keeps_its_loss_scaler(monkeypatch, scale):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    cfg = Config(dict(optim_wrapper=dict(type=AmpOptimWrapper, dtype="float16", **scale)))
    before = dict(cfg.optim_wrapper)
    environment.adapt(cfg, amp=True)
    assert dict(cfg.optim_wrapper) == before


@pytest.mark.parametrize(
    ("launcher", "what"),
    [
        ("pytorch", "RANK is not set; start the processes with"),
        ("slurm", "SLURM_PROCID is not set"),
        ("mpi", "only --launcher pytorch or slurm"),
    ],
)
def test_launchers_that_did_not_launch(no_gpu, monkeypatch, launcher, what):
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(UserError, match=what):
        environment.adapt(Config(dict()), launcher)
    assert "RANK" not in os.environ


def test_weights_of_another_model_are_refused():
    model = torch.nn.Linear(2, 3)
    check_same_model(model, model.state_dict(), "x.pth")
    for state, what in (
        (
            {"weight": torch.zeros(3, 4), "bias": torch.zeros(3)},
            r"1 shapes differ.*weight is \(3, 4\) in the file and \(3, 2\)",
        ),
        ({"weight": torch.zeros(3, 2)}, "1 keys missing, 0 unexpected; for example bias"),
        ({**model.state_dict(), "extra": torch.zeros(1)}, "0 keys missing, 1 unexpected; for example extra"),
        ({}, "2 keys missing"),
    ):
        with pytest.raises(UserError, match=what) as caught:
            check_same_model(model, state, "x.pth")
        assert str(caught.value).startswith("x.pth: the checkpoint belongs to another architecture")


def test_slurms_places_are_torchs(monkeypatch, tmp_path):
    from cmae_mm.engine.environment import _take_slurm_places

    program = tmp_path / "scontrol"
    program.write_text('#!/bin/bash\n[ "$*" = "show hostnames node[3-4]" ] && printf "node3\\nnode4\\n"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for name, value in (("PROCID", "5"), ("NTASKS", "8"), ("LOCALID", "1"), ("NODELIST", "node[3-4]")):
        monkeypatch.setenv(f"SLURM_{name}", value)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")  # put back afterwards
        monkeypatch.delenv(name)
    _take_slurm_places()
    found = [os.environ[n] for n in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")]
    assert found == ["5", "8", "1", "node3", "29500"]
