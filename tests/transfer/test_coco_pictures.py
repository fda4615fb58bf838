"""tools/visualize_detections.py: chosen images, scores, training crops, and what a drawn picture shows."""

import json
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from cmae_mm.transfer import detection_pictures
from cmae_mm.transfer.detection_pictures import detections_main
from cmae_mm.transfer.draw_instances import Drawn, class_colors, draw

CONFIG = "configs/mini/mask-rcnn_vitdet-mini_coco.py"


@pytest.fixture
def root(mini_data):
    return mini_data / "coco"


@pytest.fixture
def images(root):
    return json.loads((root / "annotations/instances_train2017.json").read_text())["images"]


def test_an_object_is_filled_and_framed():
    image = np.full((40, 60, 3), 255, np.uint8)
    mask = np.zeros((40, 60), bool)
    mask[10:30, 20:40] = True
    drawn = draw(image, [Drawn("key", (200, 0, 0), (20, 10, 40, 30), mask, 0.5)], 240)
    assert drawn.shape == (160, 240, 3)
    filled = drawn[90, 120].astype(int)
    assert filled[0] > filled[1] == filled[2]  # red shines through
    assert (drawn[60, 81] == (200, 0, 0)).all()  # the box, four times as large
    assert (drawn[150, 230] == 255).all()


def test_objects_without_pixels_or_outside_do_not_matter():
    image = np.zeros((20, 20, 3), np.uint8)
    empty = Drawn("a", (0, 200, 0), (5, 5, 5, 5), np.zeros((20, 20), bool))
    outside = Drawn("b", (0, 200, 0), (-30, -10, -5, 60), None, crowd=True)
    assert draw(image, [empty, outside], 100).shape == (100, 100, 3)


def test_tags_of_one_place_keep_apart():
    image = np.full((60, 90, 3), 128, np.uint8)
    box = (30.0, 25.0, 60.0, 50.0)
    one = draw(image, [Drawn("thing", (0, 0, 220), box)], 450)
    two = draw(image, [Drawn("thing", (0, 0, 220), box), Drawn("other", (0, 0, 220), box)], 450)
    assert (two == (0, 0, 220)).all(2).sum() > 1.5 * (one == (0, 0, 220)).all(2).sum() - 700


@pytest.mark.parametrize("count", [1, 3, 80, 365])
def test_colours_differ_between_neighbours(count):
    colors = class_colors(count)
    assert len(colors) == count
    far = [np.abs(np.subtract(a, b)).sum() for a, b in pairwise(colors)]
    assert all(d > 100 for d in far)
    assert class_colors(2, [(1, 2, 3), (4, 5, 6)]) == [(1, 2, 3), (4, 5, 6)]


def test_ground_truth_alone_by_id_and_name(call, root, images, tmp_path, capsys):
    out = tmp_path / "new" / "data.png"
    names = (str(images[0]["id"]), images[3]["file_name"], images[5]["file_name"].removesuffix(".jpg"))
    assert call(detections_main, CONFIG, "--data-root", root, "--out", out, "--images", *names) == 0
    assert f"{out}: 3 images: as annotated, as trained on" in capsys.readouterr().out
    with Image.open(out) as sheet:
        assert sheet.width > 1500
        first = np.asarray(sheet)
    again = tmp_path / "again.png"
    assert call(detections_main, CONFIG, "--data-root", root, "--out", again, "--images", *names) == 0
    np.testing.assert_array_equal(first, np.asarray(Image.open(again)))  # one seed, one picture
    other = ("--seed", "8")
    assert call(detections_main, CONFIG, "--data-root", root, "--out", again, "--images", *names, *other) == 0
    assert (
        first.shape != np.asarray(Image.open(again)).shape or (first != np.asarray(Image.open(again))).any()
    )


def test_beside_detections(call, root, tmp_path, monkeypatch):
    """An untrained model: its three best are shown; a threshold that none reaches shows none."""
    import torch
    from mmengine.registry import MODELS, init_default_scope

    import cmae_mm.transfer  # noqa: F401
    from cmae_mm.engine.config import load_config

    init_default_scope("mmdet")
    torch.manual_seed(0)
    model = MODELS.build(load_config(CONFIG).model)
    torch.save({"state_dict": model.state_dict()}, tmp_path / "x.pth")
    seen = []
    original = detection_pictures.detections

    def noted(found, classes, colors):
        seen.append(len(found))
        return original(found, classes, colors)

    monkeypatch.setattr(detection_pictures, "detections", noted)
    common = (CONFIG, tmp_path / "x.pth", "--data-root", root, "--out", tmp_path / "x.png", "--count", "2")
    options = ("--cfg-options", "model.test_cfg.rcnn.score_thr=0.0")
    assert call(detections_main, *common, *options) == 0
    assert seen == [3, 3]
    assert call(detections_main, *common, "--score-thr", "0.01", "--most", "5", *options) == 0
    assert seen[2:] == [5, 5]
    assert call(detections_main, *common, "--score-thr", "0.99", *options) == 0
    assert seen[4:] == [0, 0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--images", "nowhere.jpg"), "no image of this data set has that id or file name"),
        (("--score-thr", "30"), "give a number from 0 to 1"),
        (("--most", "0"), "give 1 or more"),
    ],
)
def test_mistakes(call, root, tmp_path, capsys, words, message):
    assert call(detections_main, CONFIG, "--data-root", root, "--out", tmp_path / "x.png", *words) == 2
    assert message in capsys.readouterr().err
