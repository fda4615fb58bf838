"""Each mistake in a data folder is named in one sentence."""

import json
import shutil
import warnings

import pytest

from cmae_mm.data.ade20k_checks import check_ade20k
from cmae_mm.data.checks import check_image_folder
from cmae_mm.data.coco_checks import check_coco
from cmae_mm.data.mini import MiniSizes, make_mini
from cmae_mm.data.taxonomy import CLASSES_ADE20K, CLASSES_COCO, CLASSES_IMAGENET
from cmae_mm.errors import UserError

K = len(CLASSES_ADE20K)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    root = tmp_path_factory.mktemp("checks") / "set"
    make_mini(root, workers=1, sizes=MiniSizes(2, 1, 8, 1, 8, 1))
    return root


@pytest.fixture
def root(good, tmp_path):
    return shutil.copytree(good, tmp_path / "set")


def coco(root, **more):
    return check_coco(root / "coco/annotations/instances_train2017.json", root / "coco/train2017", **more)


def ade(root, num_classes=K):
    return check_ade20k(root / "ade20k/images/training", root / "ade20k/annotations/training", num_classes)


def change(root, edit):
    """Edit the COCO file in place."""
    path = root / "coco/annotations/instances_train2017.json"
    whole = json.loads(path.read_text())
    edit(whole)
    path.write_text(json.dumps(whole))


def test_good_data_passes(good):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert check_image_folder(good / "imagenet", "train") == dict.fromkeys(CLASSES_IMAGENET, 2)
        assert coco(good, classes=CLASSES_COCO)["images"] == 8
        assert ade(good).images == 8


def test_image_folder(root):
    folder = root / "imagenet"
    with pytest.raises(UserError, match="no image folder"):
        check_image_folder(folder, "test")
    (folder / "bare").mkdir()
    with pytest.raises(UserError, match="no class folders"):
        check_image_folder(folder, "bare")
    (folder / "train/zebra").mkdir()
    with pytest.raises(UserError, match=r"zebra has no images"):
        check_image_folder(folder, "train")


@pytest.mark.parametrize("content", [b"", b"not an image", None])
def test_unreadable_image(root, content):
    path = sorted((root / "imagenet/train/car").iterdir())[0]
    path.write_bytes(path.read_bytes()[:600] if content is None else content)
    with pytest.raises(UserError, match=path.name):
        check_image_folder(root / "imagenet", "train")


def test_coco_files(root):
    path = root / "coco/annotations/instances_train2017.json"
    with pytest.raises(UserError, match="no image folder"):
        check_coco(path, root / "coco/nowhere")
    with pytest.raises(UserError, match="no annotation file"):
        check_coco(root / "none.json", root / "coco/train2017")
    with pytest.raises(UserError, match="no category 'zebra'"):
        coco(root, classes=["car", "zebra"])
    first = sorted((root / "coco/train2017").iterdir())[0]
    first.rename(first.with_name("away.jpg"))
    with pytest.raises(UserError, match=f"lists {first.name}, which is not in"):
        coco(root)
    for text, message in (("{", "not JSON"), ("[]", "not a COCO"), ('{"images": []}', "not a COCO")):
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            coco(root)
    path.write_text('{"images": [], "annotations": [], "categories": []}')
    with pytest.raises(UserError, match="lists no images"):
        coco(root)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda d: d["annotations"][0].update(category_id=1), "unknown category_id 1"),
        (lambda d: d["annotations"][0].update(image_id=-5), "unknown image_id -5"),
        (
            lambda d: d["annotations"][1].update(id=d["annotations"][0]["id"]),
            "more than once in `annotations`",
        ),
        (lambda d: d["annotations"][0].pop("bbox"), "no bbox"),
        (lambda d: d["images"][0].pop("file_name"), "not a complete COCO"),
        (lambda d: d["images"].append(3), "not a complete COCO"),
        (lambda d: d["images"][0].update(width=7), "use the files of one release"),
    ],
)
def test_coco_contradictions(root, edit, message):
    change(root, edit)
    with pytest.raises(UserError, match=message):
        coco(root)
