"""The embedded data: the same files from the same seed, the promised layout, exact annotations."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from cmae_mm.data import annotate, mini, scene
from cmae_mm.data.contact_sheet import contact_sheets
from cmae_mm.data.taxonomy import CLASSES_ADE20K, CLASSES_COCO, CLASSES_IMAGENET, COCO_CATEGORY_IDS
from cmae_mm.errors import UserError

SIZES = mini.MiniSizes(
    imagenet_train=2, imagenet_val=1, coco_train=48, coco_val=12, ade20k_train=24, ade20k_val=4
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A tiny set made by two processes, with its manifest and the reported progress."""
    root = tmp_path_factory.mktemp("mini") / "set"
    seen = []
    manifest = mini.make_mini(root, seed=3, workers=2, sizes=SIZES, progress=lambda *n: seen.append(n))
    return root, manifest, seen


def _files(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def _coco(root: Path, split: str):
    return json.loads((root / f"coco/annotations/instances_{split}2017.json").read_text())


def test_same_bytes_whatever_the_number_of_workers(made, tmp_path):
    root, manifest, _ = made
    again = mini.make_mini(tmp_path / "again", seed=3, workers=1, sizes=SIZES)
    assert again == manifest
    assert _files(tmp_path / "again") == _files(root)


def test_smaller_set_is_the_beginning_and_another_seed_differs(made, tmp_path):
    root, _, _ = made
    few = mini.MiniSizes(1, 1, 2, 1, 2, 1)
    mini.make_mini(tmp_path / "few", seed=3, workers=1, sizes=few)
    mini.make_mini(tmp_path / "other", seed=4, workers=1, sizes=few)
    small, large, other = (_files(r) for r in (tmp_path / "few", root, tmp_path / "other"))
    pictures = [name for name in small if name.endswith((".jpg", ".png"))]
    assert all(small[name] == large[name] for name in pictures)
    assert all(small[name] != other[name] for name in pictures)


def test_layout_and_counts(made):
    root, manifest, seen = made
    for split, count in (("train", 2), ("val", 1)):
        folders = {p.name: len(list(p.glob("*.jpg"))) for p in (root / "imagenet" / split).iterdir()}
        assert folders == dict.fromkeys(CLASSES_IMAGENET, count)
    assert tuple((root / "imagenet/classes.txt").read_text().split()) == CLASSES_IMAGENET
    assert len(list((root / "coco/train2017").iterdir())) == 48
    for folder, count in (("training", 24), ("validation", 4)):
        images = {p.stem for p in (root / "ade20k/images" / folder).glob("*.jpg")}
        assert images == {p.stem for p in (root / "ade20k/annotations" / folder).glob("*.png")}
        assert len(images) == count
    lines = (root / "ade20k/classes.txt").read_text().splitlines()
    assert [line.split("\t") for line in lines][1:] == [[str(k + 1), n] for k, n in enumerate(CLASSES_ADE20K)]
    assert manifest["made"]
    assert manifest["files"] == len(_files(root)) - 1
    assert json.loads((root / "manifest.json").read_text()) == {
        k: v for k, v in manifest.items() if k != "made"
    }
    assert seen[-1] == (118, 118)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_second_make_does_nothing_and_verify_sees_a_change(made):
    root, manifest, _ = made
    before = {p: p.stat().st_mtime_ns for p in root.rglob("*")}
    assert mini.make_mini(root, seed=3, sizes=SIZES) == {**manifest, "made": False}
    assert before == {p: p.stat().st_mtime_ns for p in root.rglob("*")}
    assert mini.verify_mini(root)
    path = root / "imagenet/classes.txt"
    kept = path.read_bytes()
    path.write_bytes(kept + b"unicorn\n")
    assert not mini.verify_mini(root)
    path.write_bytes(kept)


def test_refusals(made, tmp_path):
    root, _, _ = made
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("important")
    (tmp_path / "file").write_text("")
    few = mini.MiniSizes(1, 1, 1, 1, 1, 1)
    with pytest.raises(UserError, match="holds no mini data"):
        mini.make_mini(tmp_path / "mine", sizes=few)
    with pytest.raises(UserError, match="is a file"):
        mini.make_mini(tmp_path / "file", sizes=few)
    with pytest.raises(UserError, match="another seed"):
        mini.make_mini(root, seed=9, sizes=SIZES)
    with pytest.raises(UserError, match="another sizes"):
        mini.make_mini(root, seed=3, sizes=few)
    with pytest.raises(UserError, match="cannot write"):
        mini.make_mini(tmp_path / "file/below", sizes=few)
    with pytest.raises(UserError, match="seed of 0 or more"):
        mini.make_mini(tmp_path / "new", seed=-1)
    with pytest.raises(UserError, match="no finished mini data"):
        mini.verify_mini(tmp_path / "mine")
    assert (tmp_path / "mine/thesis.txt").read_text() == "important"


def test_missing_files_are_noticed(tmp_path):
    few = mini.MiniSizes(1, 1, 1, 1, 1, 1)
    mini.make_mini(tmp_path / "set", workers=1, sizes=few)
    next((tmp_path / "set/coco/train2017").iterdir()).unlink()
    with pytest.raises(UserError, match=r"of the \d+ files"):
        mini.make_mini(tmp_path / "set", workers=1, sizes=few)


@pytest.mark.parametrize("workers", [1, 2])
def test_interruption_leaves_nothing(tmp_path, workers):
    def stop(done, total):
        raise KeyboardInterrupt

    sizes = mini.MiniSizes(1, 1, 1, 1, 1, 1)
    with pytest.raises(KeyboardInterrupt):
        mini.make_mini(tmp_path / "set", workers=workers, sizes=sizes, progress=stop)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "set").mkdir()  # an empty folder is a free place
    assert mini.make_mini(tmp_path / "set", workers=1, sizes=sizes)["made"]
    assert [p.name for p in tmp_path.iterdir()] == ["set"]


def test_works_in_a_program_read_from_standard_input(tmp_path):
    program = (
        "from cmae_mm.data.mini import *\n"
        f"print(make_mini({str(tmp_path / 'set')!r}, workers=2, sizes=MiniSizes(1, 1, 1, 1, 1, 1))['made'])"
    )
    run = subprocess.run([sys.executable, "-"], input=program, capture_output=True, text=True, timeout=60)
    assert run.stdout.strip() == "True", run.stderr


def test_coco_file_is_complete(made):
    root, _, _ = made
    for split in ("train", "val"):
        whole = _coco(root, split)
        assert set(whole) == {"info", "licenses", "images", "annotations", "categories"}
        assert {c["id"]: c["name"] for c in whole["categories"]} == dict(
            zip(COCO_CATEGORY_IDS, CLASSES_COCO, strict=True)
        )
        assert {a["category_id"] for a in whole["annotations"]} <= set(COCO_CATEGORY_IDS)
        for row in whole["images"]:
            with Image.open(root / f"coco/{split}2017" / row["file_name"]) as image:
                assert image.size == (row["width"], row["height"])
        owners = {a["image_id"] for a in whole["annotations"]}
        assert any(row["id"] not in owners for row in whole["images"]), "no empty image"
        crowds = [a for a in whole["annotations"] if a["iscrowd"]]
        assert crowds
        assert all(isinstance(a["segmentation"]["counts"], list) for a in crowds)
        normal = [a for a in whole["annotations"] if not a["iscrowd"]]
        assert all(len(p) >= 8 for a in normal for p in a["segmentation"])
        assert min(a["area"] for a in normal) >= 10
    areas = np.array([a["area"] for a in _coco(root, "train")["annotations"] if not a["iscrowd"]])
    assert (areas < 32**2).any()
    assert ((areas > 32**2) & (areas < 96**2)).any()
    assert (areas > 96**2).any()


def test_coco_ground_truth_scores_one(made, capsys):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    root, _, _ = made
    truth = COCO(str(root / "coco/annotations/instances_train2017.json"))
    found = [
        {
            "image_id": a["image_id"],
            "category_id": a["category_id"],
            "bbox": a["bbox"],
            "segmentation": truth.annToRLE(a),
            "score": 0.9,
        }
        for a in truth.dataset["annotations"]
        if not a["iscrowd"]
    ]
    for kind in ("bbox", "segm"):
        # loadRes computes the box from the mask when there is none, so each kind gets its own copy.
        rows = [{k: v for k, v in r.items() if kind == "bbox" or k != "bbox"} for r in found]
        rows = [{k: v for k, v in r.items() if kind == "segm" or k != "segmentation"} for r in rows]
        test = COCOeval(truth, truth.loadRes(rows), kind)
        test.evaluate()
        test.accumulate()
        test.summarize()
        np.testing.assert_allclose(test.stats[:6], 1.0, atol=1e-9)
    capsys.readouterr()


def test_coco_annotations_equal_the_rendered_masks(made):
    from pycocotools import mask as masks

    root, _, _ = made
    whole = _coco(root, "train")
    for index, row in enumerate(whole["images"]):
        picture_rng = mini.picture_rng(3, "coco_train", index)
        _, instances = scene.coco_scene(picture_rng, index % 25 == 7, index % 12 == 5)
        entries = [a for a in whole["annotations"] if a["image_id"] == row["id"]]
        assert len(entries) == len(instances)
        total = np.zeros((row["height"], row["width"]), int)
        for entry, instance in zip(entries, instances, strict=True):
            runs = masks.frPyObjects(entry["segmentation"], row["height"], row["width"])
            runs = masks.merge(runs) if isinstance(runs, list) else runs
            np.testing.assert_array_equal(masks.decode(runs) > 0, instance.mask)
            assert entry["area"] == instance.mask.sum() == masks.area(runs)
            assert entry["bbox"] == masks.toBbox(runs).tolist()
            total += instance.mask
        assert total.max(initial=0) <= 1, "two objects claim a pixel"


def test_polygons_are_exact_for_any_mask():
    from pycocotools import mask as masks

    rng = np.random.default_rng(0)
    for k in range(60):
        h, w = (int(n) for n in rng.integers(1, 30, 2))
        noise = rng.random((h, w)).astype(np.float32)
        mask = (noise if k % 2 else cv2.blur(noise, (3, 3))) > 0.5
        mask[h // 2, w // 2] = True
        runs = masks.merge(masks.frPyObjects(annotate.polygons(mask), h, w))
        np.testing.assert_array_equal(masks.decode(runs) > 0, mask)
        np.testing.assert_array_equal(
            masks.decode(masks.frPyObjects(annotate.run_lengths(mask), h, w)) > 0, mask
        )


def test_label_maps(made):
    root, _, _ = made
    counts = np.zeros(256, int)
    for path in (root / "ade20k/annotations/training").iterdir():
        with Image.open(path) as image:
            assert image.mode == "L"
            labels = np.asarray(image)
        with Image.open(root / "ade20k/images/training" / f"{path.stem}.jpg") as picture:
            assert picture.size == (labels.shape[1], labels.shape[0])
            assert picture.mode == "RGB"
        counts += np.bincount(labels.ravel(), minlength=256)
    assert counts[len(CLASSES_ADE20K) + 1 :].sum() == 0
    assert (counts[: len(CLASSES_ADE20K) + 1] > 0).all(), "a class or void is absent"
    assert 0.002 < counts[0] / counts.sum() < 0.1


def test_contact_sheets_are_pictures(made, tmp_path):
    root, _, _ = made
    for path in contact_sheets(root, tmp_path / "sheets"):
        with Image.open(path) as image:
            assert min(image.size) > 200
            assert np.asarray(image).std() > 20
    with pytest.raises(UserError):
        contact_sheets(tmp_path / "nowhere", tmp_path)
