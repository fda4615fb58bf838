"""Pictures of views, masks and reconstructions, through the real commands."""

from glob import glob

import numpy as np
import pytest
import torch
from PIL import Image

from cmae_mm.pretrain.pictures import pretraining_main, views_main

CMAE = glob("configs/mini/cmae_vit-mini*_pretrain.py")[0]
LINEAR = glob("configs/mini/vit-mini*_linear_imagenet.py")[0]

# Loaders that give whole images, or images cut already, and models of one layer.
CONFIG = """
from mmpretrain.datasets import CustomDataset, LoadImageFromFile, PackInputs, Resize

from cmae_mm.pretrain.data_preprocessor import MultiViewDataPreprocessor, SingleViewDataPreprocessor

data_root = "data/"
arch = dict(embed_dims=32, num_layers=1, num_heads=2, feedforward_channels=64)
decoder = dict(
    type="CMAEPixelDecoder", num_patches=64, patch_size=8, embed_dim=32, decoder_embed_dim=16, decoder_depth=1,
    decoder_num_heads=2,
)
model = dict(
    backbone=dict(
        type="CMAEViT", arch=arch, img_size=64, patch_size=8, mask_kind="random", mask_ratio=0.75
    ),
    {parts}
)
train_dataloader = dict(
    dataset=dict(
        type=CustomDataset, data_root=data_root, data_prefix="train", with_label=False,
        pipeline=[dict(type=LoadImageFromFile), dict(type=Resize, scale=({side}, {side})), dict(type=PackInputs)],
    ),
)
default_scope = "mmpretrain"
"""
MAE = """
    type="PlainMAE", neck=decoder, head=dict(type="HiddenPixelHead", patch_size=8),
    data_preprocessor=dict(type=SingleViewDataPreprocessor, size=64),
"""
MULTI_VIEW = """
    type="MultiViewMAE", pixel_decoder=decoder, head=dict(type="MultiViewPretrainHead", patch_size=8),
    data_preprocessor=dict(type=MultiViewDataPreprocessor, size=64),
"""


@pytest.fixture
def write(tmp_path):
    """Write a config and a checkpoint of its untrained model."""

    def make(parts, side):
        from mmengine.config import Config
        from mmpretrain.registry import MODELS

        path = tmp_path / "config.py"
        path.write_text(CONFIG.replace("{parts}", parts).replace("{side}", str(side)))
        model = MODELS.build(Config.fromfile(path).model)
        torch.save({"state_dict": model.state_dict()}, tmp_path / "last.pth")
        return path, tmp_path / "last.pth"

    return make


def columns(text):
    return text.rsplit("columns: ", 1)[1].strip().split("; ")


def share_of_grey(picture):
    return (np.abs(picture.astype(int) - 127).max(axis=2) == 0).mean()


def test_views_of_cmae(call, mini_data, tmp_path, capsys):
    words = (CMAE, "--data-root", mini_data / "imagenet", "--count", 3)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert call(views_main, *words, "--out", tmp_path / f"{name}.png", "--seed", seed) == 0
    text = capsys.readouterr().out
    assert "3 images" in text
    assert columns(text) == ["image from the loader", "online view", "target view", "online view, masked"]
    a, b, c = (np.array(Image.open(tmp_path / f"{name}.png").convert("RGB")) for name in "abc")
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)
    height, width, _ = a.shape
    assert height / width == pytest.approx(3 / 4, abs=0.1)
    for colour in ([0, 114, 178], [213, 94, 0]):  # both frames: on the master, round each view
        found = (a == colour).all(axis=2)
        quarters = [found[:, k * width // 4 : (k + 1) * width // 4].sum() for k in range(4)]
        assert quarters[0] > 100
        assert sum(q > 100 for q in quarters[1:3]) == 1
        assert quarters[3] == 0
    # 44 of 64 patches are hidden; the margins take about a tenth of the picture
    assert 0.5 < share_of_grey(a[:, 3 * width // 4 :]) < 44 / 64


@pytest.mark.parametrize(
    ("parts", "side", "names"),
    [
        (MAE, 64, ["view", "view, masked"]),
        (MULTI_VIEW, 96, ["first view", "second view", "first view, masked", "second view, masked"]),
    ],
    ids=["mae", "multi-view"],
)
def test_one_view_and_two_views(call, write, mini_data, tmp_path, capsys, parts, side, names):
    config, checkpoint = write(parts, side)
    words = ("--data-root", mini_data / "imagenet", "--images", 3, 5, "--out")
    assert call(views_main, config, *words, tmp_path / "views.png") == 0
    assert columns(capsys.readouterr().out) == ["image from the loader", *names]
    assert call(pretraining_main, config, checkpoint, *words, tmp_path / "new" / "model.png") == 0
    text = capsys.readouterr().out
    assert "2 images" in text
    rebuilt = [name for hidden in names if "masked" in hidden for name in (hidden, hidden[:-6] + "rebuilt")]
    plain = [name for name in names if "masked" not in name]
    assert columns(text) == ["image from the loader", *plain, *rebuilt]
    assert Image.open(tmp_path / "new" / "model.png").size[0] > 150 * len(columns(text))


def test_pictures_of_a_trained_cmae(call, pretraining_run, mini_data, tmp_path, capsys):
    words = (CMAE, pretraining_run / "last.pth", "--data-root", mini_data / "imagenet", "--count", 2)
    options = ("--cfg-options", "model.backbone.arch.num_layers=2")
    assert call(pretraining_main, *words, "--out", tmp_path / "a.png", *options) == 0
    assert columns(capsys.readouterr().out)[3:] == ["online view, masked", "online view, rebuilt"]
    assert (tmp_path / "a.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("config", "words", "says"),
    [
        (LINEAR, (), "makes no views"),
        (CMAE, ("--count", 0), "give 1 or more"),
        (CMAE, ("--images", 60), "choose one of them"),
        (CMAE, ("--seed", -1), "give a seed of 0 or more"),
        ("configs/mini/none.py", (), "no such config file"),
    ],
)
def test_mistakes(call, mini_data, tmp_path, capsys, config, words, says):
    data = ("--data-root", mini_data / "imagenet", "--out", tmp_path / "x.png")
    assert call(views_main, config, *data, *words) == 2
    captured = capsys.readouterr()
    assert says in captured.err
    assert "Traceback" not in captured.err
    assert not (tmp_path / "x.png").exists()
