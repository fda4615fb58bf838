"""Every mistake ends with one clear sentence on standard error and exit code 2, through the real commands."""

import json
import os
import shutil
import subprocess
import sys
from glob import glob
from pathlib import Path

import pytest
import torch

from cmae_mm.cli import run as suite
from cmae_mm.engine.launch import evaluate_main, train_main

ROOT = Path(__file__).parents[2]
LINEAR = glob("configs/mini/vit-mini*_linear_imagenet.py")[0]
COCO = glob("configs/mini/mask-rcnn*_coco.py")[0]
ADE = glob("configs/mini/upernet*_ade20k.py")[0]
PRETRAIN = glob("configs/mini/cmae_vit-mini*_pretrain.py")[0]


@pytest.fixture
def fails(call, capsys):
    def check(main, *words, says):
        capsys.readouterr()
        assert call(main, *words) == 2
        _, error = capsys.readouterr()
        return sentence(error, says)

    return check


def sentence(error, says):
    lines = [line for line in error.splitlines() if line.strip()]
    assert len(lines) == 1, error
    assert lines[0].startswith("error: ")
    assert "Traceback" not in error
    for part in [says] if isinstance(says, str) else says:
        assert str(part) in lines[0]
    return lines[0]


def program(*words):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *map(str, words)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
        check=False,
    )


def test_train_program(tmp_path):
    done = program("tools/train.py", LINEAR, "--work-dir", tmp_path / "w", "--data-root", tmp_path / "none")
    assert done.returncode == 2
    sentence(done.stderr, ["there is no image folder", tmp_path / "none", "check the data root"])
    assert done.stdout == ""


def test_test_program(tmp_path):
    done = program("tools/test.py", LINEAR, tmp_path / "none.pth")
    assert done.returncode == 2
    sentence(done.stderr, [f"{tmp_path}/none.pth", "no such checkpoint file", "check the path"])


def test_suite_program(tmp_path):
    (tmp_path / "broken.toml").write_text("name = [")
    done = program("-m", "cmae_mm", "demo", "--recipe", tmp_path / "broken.toml", "--out", tmp_path / "out")
    assert done.returncode == 2
    sentence(done.stderr, ["broken.toml", "not valid TOML"])


def test_broken_data_of_each_kind(fails, mini_data, tmp_path):
    def copy(name):
        shutil.rmtree(tmp_path / "d", ignore_errors=True)
        return Path(shutil.copytree(mini_data / name, tmp_path / "d"))

    def train(config, says):
        fails(train_main, config, "--work-dir", tmp_path / "w", "--data-root", tmp_path / "d", says=says)

    (tmp_path / "d" / "train").mkdir(parents=True)
    train(LINEAR, ["has no class folders", tmp_path / "d" / "train"])
    folder = next((copy("imagenet") / "train").iterdir())
    image = sorted(folder.iterdir())[0]
    image.write_bytes(image.read_bytes()[:200])
    train(LINEAR, ["cannot read the image", image])
    train(PRETRAIN, ["cannot read the image", image])
    for image in folder.iterdir():
        image.unlink()
    train(LINEAR, [folder, "has no images; fill it or remove it"])
    ann = copy("coco") / "annotations" / "instances_train2017.json"
    ann.write_text("{not json")
    train(COCO, ["the annotation file", ann, "is not JSON"])
    ann.unlink()
    train(COCO, ["there is no annotation file", ann])
    label = sorted((copy("ade20k") / "annotations" / "training").iterdir())[0]
    label.unlink()
    train(ADE, [label.name, "has no label map"])


def test_paths_and_fields(fails, tmp_path, mini_data):
    work = ("--work-dir", tmp_path / "w")
    fails(
        train_main,
        LINEAR.replace("imagenet", "imagenot"),
        *work,
        says=["no such config file", f"did you mean {LINEAR}?"],
    )
    fails(
        train_main, LINEAR, *work, "--cfg-options", "train_cfg.max_epoch=1", says="did you mean 'max_epochs'?"
    )
    fails(
        train_main, LINEAR, *work, "--cfg-options", "train_cfg.max_epochs", says="not of the form key=value"
    )
    (tmp_path / "plain.py").write_text("model = dict(type='x')\n")
    fails(train_main, tmp_path / "plain.py", *work, "--data-root", "/x", says="no top-level data_root")
    fails(train_main, "configs/_base_/runtime.py", *work, says=["has no model", "use a recipe"])
    (tmp_path / "file").write_text("")
    fails(train_main, LINEAR, "--work-dir", tmp_path / "file", says="cannot be used as work dir")
    data = ("--data-root", mini_data / "imagenet")
    fails(
        train_main,
        LINEAR,
        *work,
        *data,
        "--resume",
        tmp_path / "none.pth",
        says="no such checkpoint to start from",
    )
    fails(evaluate_main, PRETRAIN, tmp_path / "file", *work, says="has no test_dataloader")


def test_backbone_files(fails, tmp_path, mini_data, backbone_file, pretraining_run, loader_options):
    words = ("--work-dir", tmp_path / "w", "--data-root", mini_data / "imagenet")
    options = ("--cfg-options", *loader_options)
    fails(
        train_main, LINEAR, *words, "--backbone", backbone_file, *options,
        says=["the file holds a ViT with width 48, ", "builds one with width", "use the config of the same"],
    )  # fmt: skip
    fails(train_main, LINEAR, *words, "--backbone", pretraining_run / "last.pth", says="a ViT with depth 2")
    fails(train_main, PRETRAIN, *words, "--backbone", backbone_file, says="use a transfer config")


def test_checkpoints(fails, tmp_path, mini_data, pretraining_run, loader_options):
    words = (
        "--work-dir",
        tmp_path / "w",
        "--data-root",
        mini_data / "imagenet",
        "--cfg-options",
        *loader_options,
    )
    checkpoint = pretraining_run / "last.pth"
    fails(evaluate_main, LINEAR, checkpoint, *words, says=["belongs to another architecture", checkpoint])
    fails(train_main, LINEAR, "--resume", checkpoint, *words, says="belongs to another architecture")
    (tmp_path / "cut.pth").write_bytes(checkpoint.read_bytes()[:5000])
    fails(evaluate_main, LINEAR, tmp_path / "cut.pth", *words, says=["cut.pth", "damaged or cut short"])
    torch.save({"weights": {}}, tmp_path / "other.pth")
    fails(evaluate_main, LINEAR, tmp_path / "other.pth", *words, says=["other.pth", "another architecture"])


def test_commands_of_the_suite(fails, tmp_path):
    fails(suite, "import", tmp_path / "none.pth", "--out", tmp_path / "x", says="no such file")
    torch.save({"state_dict": {}}, tmp_path / "other.pth")
    fails(
        suite,
        "import",
        tmp_path / "other.pth",
        "--out",
        tmp_path / "x",
        says="holds no dictionary of tensors",
    )
    fails(suite, "export", tmp_path / "other.pth", "--to", "timm", says=["holds no", "cmae-mm import"])
    fails(suite, "export", tmp_path / "other.pth", "--out", "x", says=["for which library", "cmae-mm import"])
    fails(suite, "inspect", tmp_path / "none.pth", says="no such file")
    fails(suite, "demo", "--recipe", tmp_path / "none.toml", says="no such benchmark recipe")
    (tmp_path / "file").write_text("")
    fails(suite, "demo", "--out", tmp_path / "file", says=["file", "cannot be used"])
    fails(suite, "data", "mini", "--out", tmp_path / "file", says="is a file")
    fails(suite, "data", "mini", "--out", tmp_path, says="is not empty")
    fails(suite, "data", "mini", "--out", tmp_path / "new", "--seed", "-1", says="seed of 0 or more")


@pytest.mark.parametrize("content", ["[1]", json.dumps({"images": []})])
def test_json_that_is_no_coco_file(fails, mini_data, tmp_path, content):
    shutil.copytree(mini_data / "coco", tmp_path / "d")
    (tmp_path / "d" / "annotations" / "instances_train2017.json").write_text(content)
    fails(
        train_main,
        COCO,
        "--work-dir",
        tmp_path / "w",
        "--data-root",
        tmp_path / "d",
        says="not a COCO annotation file",
    )
