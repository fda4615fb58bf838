"""No file is executed, whichever way it comes in: a hostile one ends in one sentence, and its mark is never made."""

import os
import subprocess
import sys
from glob import glob
from pathlib import Path

import pytest
import torch
from mmengine.config import ConfigDict

from cmae_mm.checkpoints import load_backbone
from cmae_mm.checkpoints.importing import import_checkpoint
from cmae_mm.checkpoints.inspecting import inspect_file
from cmae_mm.checkpoints.mmengine_loader import make_mmengine_load_safely
from cmae_mm.cli import run as suite
from cmae_mm.engine.launch import evaluate_main, train_main
from cmae_mm.errors import UserError

ROOT = Path(__file__).parents[2]
LINEAR = glob("configs/mini/vit-mini*_linear_imagenet.py")[0]
COCO = glob("configs/mini/mask-rcnn*_coco.py")[0]
ADE = glob("configs/mini/upernet*_ade20k.py")[0]
PRETRAIN = glob("configs/mini/cmae_vit-mini*_pretrain.py")[0]
SETS = {LINEAR: "imagenet", PRETRAIN: "imagenet", COCO: "coco", ADE: "ade20k"}
SCHEMES = (
    "http://x.org/a.pth",
    "https://x.org/a.pth",
    "torchvision://resnet50",
    "modelzoo://resnet50",
    "open-mmlab://resnet50",
    "openmmlab://resnet50",
    "mmcls://resnet50",
    "s3://bucket/a.pth",
    "petrel://bucket/a.pth",
    "cluster:s3://bucket/a.pth",
    "pavi://a",
    "hf://org/a.pth",
    "file:///tmp/a.pth",
)


class Hostile:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (eval, (f"open({str(self.mark)!r}, 'w').close()",))


@pytest.fixture(params=["zip"])
def hostile(tmp_path, request):
    mark, path = tmp_path / "executed", tmp_path / "bad.pth"
    content = {"state_dict": {"a.weight": torch.ones(2)}, "meta": {"x": Hostile(mark)}}
    torch.save(content, path, _use_new_zipfile_serialization=request.param == "zip")
    yield path
    assert not mark.exists()


@pytest.fixture
def refused(call, capsys):
    def check(main, *words, says="refused, it asks to load eval, which weights do not need"):
        capsys.readouterr()
        assert call(main, *words) == 2
        lines = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
        assert len(lines) == 1, lines
        assert lines[0].startswith("error: ")
        assert says in lines[0]

    return check


def command(config, mini_data, work, loader_options, *words):
    data = ("--data-root", mini_data / SETS[config])
    options = loader_options[:3] if config == PRETRAIN else loader_options  # it has no other loaders
    return (config, "--work-dir", work, *data, *words, "--cfg-options", *options)


@pytest.fixture
def words(mini_data, tmp_path, loader_options):
    return lambda config, *more: command(config, mini_data, tmp_path / "w", loader_options, *more)


BOTH_FORMATS = pytest.mark.parametrize("hostile", ["zip", "before torch 1.6"], indirect=True)


@pytest.mark.parametrize(
    ("way", "config"),
    [("load_from", COCO), ("load_from", PRETRAIN), ("resume", LINEAR), ("resume auto", LINEAR)],
)
def test_training(way, config, hostile, words, refused, tmp_path):
    if way == "load_from":
        refused(train_main, *words(config), f"load_from={hostile}")
    elif way == "resume":
        refused(train_main, *words(config, "--resume", hostile))
    else:
        (tmp_path / "w").mkdir()
        (tmp_path / "w" / "last_checkpoint").write_text(str(hostile))
        refused(train_main, *words(config, "--resume"))


def test_testing(hostile, words, refused):
    refused(evaluate_main, ADE, hostile, *words(ADE)[1:])


@pytest.mark.parametrize(
    ("config", "part"),
    [
        (LINEAR, "model"),
        (PRETRAIN, "model.pixel_decoder"),
        (COCO, "model.rpn_head"),
        (ADE, "model.decode_head"),
    ],
)
def test_parts_of_a_model_that_load_weights_of_their_own(config, part, hostile, words, refused):
    options = (f"{part}.init_cfg.type=Pretrained", f"{part}.init_cfg.checkpoint={hostile}")
    refused(train_main, *words(config), *options)


@pytest.mark.parametrize("program", ["visualize_pretraining", "visualize_detections"])
def test_pictures(program, hostile, mini_data, refused, tmp_path):
    from cmae_mm.pretrain.pictures import pretraining_main
    from cmae_mm.transfer.detection_pictures import detections_main

    main, config = {
        "visualize_pretraining": (pretraining_main, PRETRAIN),
        "visualize_detections": (detections_main, COCO),
    }[program]
    data = ("--data-root", mini_data / SETS[config])
    refused(main, config, hostile, "--out", tmp_path / "x.png", *data)


@BOTH_FORMATS
@pytest.mark.parametrize("name", ["bad.pth", "bad.safetensors", "bad.tar", "bad"])
def test_commands_on_checkpoints(name, hostile, words, refused, tmp_path):
    path = hostile.rename(tmp_path / name)
    says = {"says": "not a readable safetensors file"} if name.endswith(".safetensors") else {}
    refused(lambda _: import_checkpoint(path), **says)
    refused(lambda _: inspect_file(path))
    refused(suite, "import", path, "--out", tmp_path / "x.safetensors", **says)
    refused(suite, "export", path, "--to", "timm", "--out", tmp_path / "x.safetensors", **says)
    refused(lambda _: load_backbone(path), says="not a readable safetensors file")
    if name == "bad.pth":  # imported on the way
        refused(train_main, *words(LINEAR, "--backbone", path))
    assert not (tmp_path / "x.safetensors").exists()


def library_models():
    from mmdet.models.backbones import ResNet, SwinTransformer
    from mmpretrain.models import BEiTViT, VisionTransformer
    from mmseg.models.backbones import MAE, BEiT
    from mmseg.models.backbones import VisionTransformer as SegmentationViT

    small = dict(embed_dims=48, num_layers=1, num_heads=3)
    arch = {**small, "feedforward_channels": 96}
    return {
        "mmpretrain ViT": lambda **init: VisionTransformer(arch, 32, 8, **init),
        "mmpretrain BEiT": lambda **init: BEiTViT(arch, 32, 8, **init),
        "mmdet ResNet": lambda **init: ResNet(18, **init),
        "mmdet Swin": lambda **init: SwinTransformer(
            embed_dims=24, depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1), **init
        ),
        "mmseg ViT": lambda **init: SegmentationViT(32, 8, **small, **init),
        "mmseg MAE": lambda **init: MAE(32, 8, **small, **init),
        "mmseg BEiT": lambda **init: BEiT(32, 8, **small, qv_bias=True, **init),
    }


class TestLibraryModels:
    @pytest.fixture(autouse=True)
    def safely(self):
        make_mmengine_load_safely()

    @BOTH_FORMATS
    @pytest.mark.parametrize("name", library_models())
    @pytest.mark.parametrize("prefix", [None, "backbone."])
    def test_files(self, name, prefix, hostile):
        init = ConfigDict(
            type="Pretrained", checkpoint=str(hostile), **({"prefix": prefix} if prefix else {})
        )
        with pytest.raises(UserError, match="asks to load eval"):
            library_models()[name](init_cfg=init).init_weights()

    @pytest.mark.parametrize("address", SCHEMES)
    def test_addresses(self, address):
        init = dict(type="Pretrained", checkpoint=address)
        with pytest.raises(
            UserError, match=rf"{address}: weights are not fetched .* download the file and give its path"
        ):
            library_models()["mmpretrain ViT"](init_cfg=init).init_weights()

    def test_every_scheme_is_ours(self):
        from mmengine.runner.checkpoint import CheckpointLoader

        makers = {loader.__module__ for loader in CheckpointLoader._schemes.values()}
        assert makers == {"cmae_mm.checkpoints.mmengine_loader"}

    def test_plain_weights_are_loaded(self, tmp_path):
        model = library_models()["mmpretrain ViT"]()
        path = tmp_path / "good.pth"
        torch.save({"state_dict": {k: v + 1 for k, v in model.state_dict().items()}}, path)
        other = library_models()["mmpretrain ViT"](init_cfg=dict(type="Pretrained", checkpoint=str(path)))
        other.init_weights()
        assert torch.equal(other.ln1.weight, model.ln1.weight + 1)

    def test_files_of_annotations(self, tmp_path):
        import mmengine

        mark, pickled, marked = tmp_path / "executed", tmp_path / "x.pkl", tmp_path / "x.yaml"
        mmengine.dump({"x": Hostile(mark)}, pickled)
        with pytest.raises(UserError, match=r"\.pkl file of annotations is not read"):
            mmengine.load(pickled)
        marked.write_text(f"x: !!python/object/apply:builtins.open [{mark}, w]\n")
        with pytest.raises(Exception, match="could not determine a constructor"):
            mmengine.load(marked)
        assert not mark.exists()
        marked.write_text("x: [1, a]\n")
        assert mmengine.load(marked) == {"x": [1, "a"]}


BEFORE_AND_AFTER = """
import sys, torch
from mmengine.runner import load_checkpoint
from cmae_mm.checkpoints.mmengine_loader import make_mmengine_load_safely
path, mark, safe = sys.argv[1:]
if safe == "safe":
    make_mmengine_load_safely()
load_checkpoint(torch.nn.Linear(1, 1), path)
"""


def test_the_library_alone_would_have_executed_it(hostile, tmp_path):
    mark = tmp_path / "executed"

    def program(how):
        words = [sys.executable, "-c", BEFORE_AND_AFTER, hostile, mark, how]
        plain = {key: value for key, value in os.environ.items() if not key.startswith("TORCH_FORCE")}
        return subprocess.run(
            list(map(str, words)), capture_output=True, text=True, cwd=ROOT, check=False, env=plain
        )

    assert "UserError" in program("safe").stderr
    assert not mark.exists()
    program("alone")
    assert mark.exists()
    mark.unlink()


@pytest.mark.parametrize("note", [b"\xff\xfe\x00", b"x" * 100_000, b"/dev/zero"])
def test_notes_of_the_newest_checkpoint(note, words, refused, tmp_path):
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "last_checkpoint").write_bytes(note)
    refused(train_main, *words(LINEAR, "--resume"), says="")


@pytest.mark.parametrize("suffix", [".json", ".yaml", ".yml", ".txt", ""])
def test_configs_are_programs(suffix, refused, tmp_path):
    path = tmp_path / f"config{suffix}"
    path.write_text('{"model": {"type": "os.system", "command": "touch executed"}}')
    refused(train_main, path, says="a config is a Python file (.py)")
