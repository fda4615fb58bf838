"""Each mistake in a detection set is named in one sentence; what is harmless is counted."""

import copy
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from cmae_mm.data.coco_checks import check_coco, describe
from cmae_mm.engine.config import load_config, set_data_root
from cmae_mm.engine.preflight import check_datasets
from cmae_mm.errors import UserError

CONFIG = "configs/mini/mask-rcnn_vitdet-mini_coco.py"
SQUARE = [10.0, 10.0, 30.0, 10.0, 30.0, 30.0, 10.0, 30.0]


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """Four images of 64 x 48: two with objects, one with a crowd, one empty."""
    root = tmp_path_factory.mktemp("good")
    for k in range(1, 5):
        Image.new("RGB", (64, 48)).save(root / f"{k}.jpg")
    rows = [
        {"segmentation": [SQUARE], "bbox": [10, 10, 20, 20], "area": 400},
        {"segmentation": [SQUARE], "bbox": [10, 10, 20, 20], "area": 400, "image_id": 2, "category_id": 9},
        {"segmentation": {"size": [48, 64], "counts": [0, 480, 2592]}, "bbox": [0, 0, 10, 48], "area": 480,
         "image_id": 3, "iscrowd": 1},
    ]  # fmt: skip
    rows = [{"id": k, "image_id": 1, "category_id": 4, "iscrowd": 0, **row} for k, row in enumerate(rows, 1)]
    images = [{"id": k, "file_name": f"{k}.jpg", "width": 64, "height": 48} for k in range(1, 5)]
    categories = [{"id": 4, "name": "cat"}, {"id": 9, "name": "dog"}]
    return root, {"images": images, "annotations": rows, "categories": categories}


@pytest.fixture
def check(good, tmp_path):
    """A check of the good set after an edit."""
    root, whole = good

    def run(edit=lambda whole: None, classes=("cat", "dog")):
        changed = copy.deepcopy(whole)
        edit(changed)
        (tmp_path / "instances.json").write_text(json.dumps(changed))
        return check_coco(tmp_path / "instances.json", root, classes)

    return run


def objects(whole):
    return whole["annotations"]


def grow(whole, count, **row):
    """Many more good objects, then one that differs."""
    first = objects(whole)[0]
    whole["annotations"] += [{**copy.deepcopy(first), "id": 100 + k} for k in range(count)]
    whole["annotations"].append({**copy.deepcopy(first), "id": 99, **row})


def test_good_set(check):
    counts = check()
    assert (counts["images"], counts["annotations"], counts["categories"]) == (4, 3, 2)
    assert describe(counts) == (
        "4 images, 3 annotations, 2 categories; among them 1 empty images, 1 crowd regions (left out of training)"
    )


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda w: w["images"].append(dict(w["images"][0])), "has the id 1 more than once in `images`"),
        (lambda w: w["categories"].append({"id": 4, "name": "x"}), "has the id 4 more than once in `categories`"),
        (lambda w: objects(w)[0].update(id=2), "has the id 2 more than once in `annotations`"),
        (lambda w: objects(w)[0].update(category_id=5), "annotation 1 in .* has the unknown category_id 5"),
        (lambda w: objects(w)[0].update(image_id=77), "annotation 1 in .* has the unknown image_id 77"),
        (lambda w: w["categories"][1].update(name="cat"), "two categories named 'cat'"),
        (lambda w: w["categories"][1].update(name="cow"), "has no category 'dog'; set the classes .*'cow'"),
        (lambda w: w["categories"].reverse(), "lists its categories in another order than the config's classes"),
        (lambda w: objects(w)[0].pop("bbox"), "annotation 1 in .* has no bbox of four numbers"),
        (lambda w: objects(w)[0].pop("area"), "annotation 1 in .* has no area"),
        (lambda w: objects(w)[0].update(bbox=[1, 2, float("nan"), 4]), "annotation 1 .* not finite"),
        (lambda w: [r.update(bbox=[30, 30, 60, 45]) for r in objects(w)[:2]], "2 of 3 boxes .* leave their image"),
        (lambda w: objects(w)[1].update(segmentation=[[*SQUARE[:-1], float("nan")]]), "annotation 2 .* not finite"),
        (lambda w: objects(w)[1].update(segmentation=[[*SQUARE[:-1], "x"]]), "annotation 2 .* no number"),
        (lambda w: objects(w)[1].update(segmentation=[SQUARE, [v + 90 for v in SQUARE]]),
         "annotation 2 .* lies outside its image of 64x48"),
        (lambda w: [r.update(segmentation=[[1, 2, 3, 4]]) for r in objects(w)[:2]],
         "2 of 3 objects .* no polygon of three points"),
        (lambda w: objects(w)[2]["segmentation"].update(size=[64, 48]), "run lengths of annotation 3 .* do not fit"),
        (lambda w: objects(w)[2]["segmentation"].update(counts=[5, 6]), "run lengths of annotation 3 .* do not fit"),
        (lambda w: w["images"][0].pop("width"), "not a complete COCO annotation file .*width"),
        (lambda w: w["images"][0].pop("file_name"), "not a complete COCO annotation file .*file_name"),
        (lambda w: w["images"][0].update(height=0), "image 1 in .* has the size"),
        (lambda w: w["images"][1].update(width=65), "2.jpg is 64x48 but .* says 65x48"),
        (lambda w: w["images"][1].update(file_name="9.jpg"), "lists 9.jpg, which is not in"),
        (lambda w: w.update(annotations=[]), "has no annotation at all"),
        (lambda w: w.update(annotations={}), "not a COCO annotation file: it has no list `annotations`"),
        (lambda w: w.update(images=[]), "lists no images"),
    ],
)  # fmt: skip
def test_mistakes(check, edit, message):
    with pytest.raises(UserError, match=message) as caught:
        check(edit)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\x1f\x8b\x08\x00", b"version https://git-lfs.github.com/spec/v1\n"]
)
def test_files_that_are_not_json(good, tmp_path, content):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(UserError, match="is not JSON"):
        check_coco(tmp_path / "x.json", good[0])


def test_results_are_no_annotation_file(good, tmp_path):
    (tmp_path / "x.json").write_text('[{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1], "score": 1}]')
    with pytest.raises(UserError, match="not a COCO annotation file"):
        check_coco(tmp_path / "x.json", good[0])


@pytest.mark.parametrize(
    ("row", "counted"),
    [
        (dict(segmentation=[SQUARE, [1, 2, 3, 4]]), "polygons without three points (left out)"),
        (dict(segmentation=[]), "objects without an outline (left out)"),
        (dict(segmentation=[[1.0] * 7]), "objects without an outline (left out)"),
        (dict(segmentation=[[10, 10, 67, 10, 10, 40]]), "outlines beyond the image (cut)"),
        (
            dict(segmentation={"size": [48, 64], "counts": [0, 480, 2592]}),
            "objects as run lengths (made polygons)",
        ),
        (dict(bbox=[10, 10, 60, 20]), "boxes beyond the image (cut)"),
        (dict(bbox=[10, 10, 0.5, 20]), "boxes below one pixel (left out)"),
        (dict(iscrowd=1, segmentation=[SQUARE]), "crowd regions (left out of training)"),
    ],
)
def test_what_is_harmless_is_counted(check, row, counted):
    counts = check(lambda whole: grow(whole, 10, **row))
    assert counts[counted] == 1 + (counted.startswith("crowd"))
    assert f"1 {counted}" in describe(counts) or counted.startswith("crowd")


def test_categories_beyond_the_config(check):
    counts = check(classes=("cat",))
    assert counts["objects of categories that the config does not name"] == 1


def test_boxes_alone_are_a_good_set(check):
    def edit(whole):
        for row in objects(whole):
            row.pop("segmentation")

    assert not any("outline" in key for key in check(edit))


def test_turned_photographs_count_as_loaders_turn_them(good, tmp_path):
    root, whole = good
    exif = Image.Exif()
    exif[0x0112] = 6
    folder = shutil.copytree(root, tmp_path / "images")
    Image.new("RGB", (48, 64)).save(folder / "2.jpg", exif=exif)
    (tmp_path / "x.json").write_text(json.dumps(whole))
    check_coco(tmp_path / "x.json", folder)
    Image.new("RGB", (64, 48)).save(folder / "2.jpg", exif=exif)
    with pytest.raises(UserError, match=r"2.jpg is 48x64 but"):
        check_coco(tmp_path / "x.json", folder)


def test_outlines_of_many_batches(check, monkeypatch):
    monkeypatch.setattr("cmae_mm.data.outlines._BATCH", 7)
    counts = check(lambda whole: grow(whole, 40, segmentation=[SQUARE, SQUARE[:5]]))
    assert counts["polygons without three points (left out)"] == 1
    with pytest.raises(UserError, match="annotation 99 "):
        check(lambda whole: grow(whole, 40, segmentation=[SQUARE, [np.inf, *SQUARE[1:]]]))


def test_a_config_is_checked_with_its_classes_and_heads(mini_data):
    cfg = load_config(CONFIG)
    set_data_root(cfg, mini_data / "coco")
    notes = check_datasets(cfg, ("train", "val"))
    assert [re.search(r"instances_(\w+)2017.json: (\d+) images", n).groups() for n in notes] == [
        ("train", "8"), ("val", "2")
    ]  # fmt: skip
    cfg.model.roi_head.mask_head.num_classes = 80
    with pytest.raises(UserError, match="mask_head has num_classes=80, but the data set has 6 classes"):
        check_datasets(cfg, ("val",))
    cfg = load_config(CONFIG, {"train_dataloader.dataset.metainfo.classes": ["cup", "car"]})
    set_data_root(cfg, mini_data / "coco")
    with pytest.raises(UserError, match="another order"):
        check_datasets(cfg, ("train",))


def test_one_process_of_a_machine_checks(monkeypatch, mini_data, tmp_path):
    cfg = load_config(CONFIG)
    set_data_root(cfg, tmp_path / "none")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert check_datasets(cfg, ("train",)) == []
    monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(UserError, match="no annotation file"):
        check_datasets(cfg, ("train",))
