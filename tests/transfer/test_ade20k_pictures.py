"""Pictures of segmentation: what is drawn where, the legend, and the command."""

import numpy as np
import pytest
import torch
from PIL import Image

import cmae_mm.transfer  # noqa: F401

# isort: split
from cmae_mm.transfer.draw_segments import VOID, Segmented, entries, panels
from cmae_mm.transfer.segmentation_pictures import save_sheet, segmentation_colors, segmentations_main

COLORS = [(250, 0, 0), (0, 250, 0), (0, 0, 250)]


@pytest.fixture
def one():
    truth = np.zeros((40, 60), np.uint8)
    truth[:, 30:], truth[:10, :10] = 1, VOID
    given = np.zeros((40, 60), np.uint8)
    given[:, 40:], given[30:, 50:] = 1, 2
    return Segmented("a.jpg", np.full((40, 60, 3), 128, np.uint8), truth, given)


def test_the_legend_counts_labelled_pixels(one):
    found, more = entries(one)
    labelled = 40 * 60 - 100
    assert [e.label for e in found] == [1, 0, 2]  # by their share of the truth
    assert [e.truth for e in found] == [1200 / labelled, 1100 / labelled, 0]
    assert [e.given for e in found] == [700 / labelled, 1500 / labelled, 100 / labelled]
    assert [e.iou for e in found] == [700 / 1200, 1100 / 1500, 0]
    assert more == 0
    assert entries(one, most=2)[1] == 1
    assert one.accuracy == (1100 + 700) / labelled


def test_panels_show_labels_errors_and_void(one):
    image, truth, given, errors = (p.astype(int) for p in panels(one, COLORS, 120))
    assert image.shape == truth.shape == (80, 120, 3)
    assert (image == 128).all()
    assert truth[50, 20, 0] > 150 > truth[50, 20, 1]  # class 0 is red
    assert truth[50, 90, 1] > 150 > truth[50, 90, 0]  # class 1 is green
    assert given[50, 70, 0] > 150 > given[50, 70, 1]  # wrong: class 0 there
    assert errors[50, 70, 0] > 2 * errors[50, 70, 1]  # red
    assert len(set(errors[50, 90])) == 1  # right is grey
    assert errors[5, 5].max() < 130  # void is dark
    assert (truth[5, 5] == errors[5, 5]).all()


def test_colours():
    from mmseg.datasets import ADE20KDataset

    from cmae_mm.data.taxonomy import CLASSES_ADE20K, PALETTE_ADE20K

    assert segmentation_colors(CLASSES_ADE20K) == PALETTE_ADE20K
    assert segmentation_colors(ADE20KDataset.METAINFO["classes"])[2] == (6, 230, 230)  # sky
    other = segmentation_colors([f"class {k}" for k in range(39)])
    assert len(set(other)) == 39


def test_a_sheet_has_a_block_for_each_image(one, tmp_path):
    for count in (1, 3):
        save_sheet([one] * count, "abc", COLORS, tmp_path / f"in/{count}.png")
    heights = [Image.open(tmp_path / f"in/{k}.png").height for k in (1, 3)]
    head = 34
    assert heights[1] - head == 3 * (heights[0] - head)


def test_ade20k_pictures_command(mini_data, call, tmp_path, capsys):
    from mmengine.registry import MODELS, init_default_scope

    from cmae_mm.engine.config import load_config

    config = "configs/mini/linear_vit-mini_ade20k.py"
    cfg = load_config(config)
    init_default_scope("mmseg")
    torch.manual_seed(0)
    torch.save({"state_dict": MODELS.build(cfg.model).state_dict()}, tmp_path / "random.pth")
    words = (
        config,
        tmp_path / "random.pth",
        "--data-root",
        mini_data / "ade20k",
        "--out",
        tmp_path / "s.png",
    )
    name = sorted((mini_data / "ade20k/images/validation").iterdir())[1].stem
    assert call(segmentations_main, *words, "--images", name, "0") == 0
    assert "2 images: image, ground truth, prediction" in capsys.readouterr().out
    picture = np.asarray(Image.open(tmp_path / "s.png"))
    assert picture.shape[1] == 10 + 4 * 390
    assert picture.std() > 20
    assert call(segmentations_main, *words, "--images", name + "x") == 2
    assert f"did you mean {name}" in capsys.readouterr().err
