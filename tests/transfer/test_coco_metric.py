"""The metric against pycocotools: all twelve numbers and each class, at full precision."""

import contextlib
import io
import json

import numpy as np
import pytest
import torch
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from cmae_mm.transfer.coco_metric import CMAECocoMetric

SIDE, CLASSES = 200, ("cat", "dog", "emu", "yak")
IDS = (3, 7, 18, 44)  # sparse, as COCO's
NAMES = ["mAP", "mAP_50", "mAP_75", "mAP_s", "mAP_m", "mAP_l"]
NAMES += ["AR@1", "AR@10", "AR@100", "AR_s@100", "AR_m@100", "AR_l@100"]


def ellipse(centre, radii):
    y, x = np.mgrid[:SIDE, :SIDE]
    return ((x - centre[0]) / radii[0]) ** 2 + ((y - centre[1]) / radii[1]) ** 2 <= 1


def entry(mask, **more):
    code = rle.encode(np.asfortranarray(mask.astype(np.uint8)))
    shown = {"segmentation": {**code, "counts": code["counts"].decode()}, "bbox": rle.toBbox(code).tolist()}
    return {**shown, "area": float(rle.area(code)), **more}


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """An annotation file with crowds, empty images, a class that never occurs, and all sizes; and predictions."""
    rng = np.random.default_rng(5)
    rows, found = [], []
    for image in range(1, 25):
        masks, labels, scores = [], [], []
        for _ in range(0 if image % 6 == 0 else rng.integers(1, 6)):
            centre, radii = rng.uniform(20, 180, 2), np.exp(rng.uniform(np.log(4), np.log(90), 2))
            label, mask = int(rng.integers(3)), ellipse(centre, radii)
            crowd = int(rng.random() < 0.15)
            rows.append(entry(mask, id=len(rows) + 1, image_id=image, category_id=IDS[label], iscrowd=crowd))
            for spread in (0.05, 0.3)[: rng.integers(0, 3)]:
                masks.append(
                    ellipse(centre + spread * radii * rng.normal(size=2), radii * rng.uniform(0.8, 1.2, 2))
                )
                labels.append(label if rng.random() < 0.8 else int(rng.integers(4)))
                scores.append(rng.random())
        for _ in range(rng.integers(0, 9)):
            masks.append(ellipse(rng.uniform(0, 200, 2), rng.uniform(3, 60, 2)))
            labels.append(int(rng.integers(4)))
            scores.append(0.7 * rng.random())
        found.append(prediction(image, masks, labels, scores))
    images = [{"id": i, "width": SIDE, "height": SIDE, "file_name": f"{i}.jpg"} for i in range(1, 25)]
    categories = [{"id": i, "name": n} for i, n in zip(IDS, CLASSES, strict=True)]
    file = tmp_path_factory.mktemp("scene") / "instances.json"
    file.write_text(json.dumps({"images": images, "annotations": rows, "categories": categories}))
    return file, found


def prediction(image, masks, labels, scores):
    boxes = []
    for mask in masks:
        x, y = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
        boxes.append([x[0] - 0.3, y[0] + 0.2, x[-1] + 1.1, y[-1] + 0.9])
    stacked = np.stack(masks) if masks else np.zeros((0, SIDE, SIDE), bool)
    instances = {
        "bboxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "scores": torch.tensor(scores, dtype=torch.float32),
        "labels": torch.tensor(labels, dtype=torch.long),
        "masks": torch.from_numpy(stacked),
    }
    return {"img_id": image, "ori_shape": (SIDE, SIDE), "pred_instances": instances}


def ours(file, found, **more):
    metric = CMAECocoMetric(ann_file=str(file), **more)
    metric.dataset_meta = {"classes": CLASSES}
    for k in range(0, len(found), 5):
        metric.process({}, found[k : k + 5])
    return metric.evaluate(len(found))


def theirs(file, found, kind, images=None, categories=None):
    """pycocotools' own twelve numbers."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth, loaded = COCO(str(file)), COCO()
        loaded.dataset = {key: truth.dataset[key] for key in ("images", "categories")} | {"annotations": []}
        for sample in found:
            one = sample["pred_instances"]
            for k, mask in enumerate(one["masks"].numpy()):
                row = entry(mask, iscrowd=0, image_id=sample["img_id"])
                x0, y0, x1, y1 = one["bboxes"][k].double().tolist()
                if kind == "bbox":
                    row |= {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0)}
                row |= {"category_id": IDS[one["labels"][k]], "score": one["scores"][k].item()}
                loaded.dataset["annotations"].append({**row, "id": len(loaded.dataset["annotations"]) + 1})
        loaded.createIndex()
        evaluation = COCOeval(truth, loaded, kind)
        evaluation.params.imgIds = images or evaluation.params.imgIds
        evaluation.params.catIds = categories or evaluation.params.catIds
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_twelve_numbers_and_each_class(scene, kind):
    file, found = scene
    metrics = ours(file, found)
    expected = theirs(file, found, kind)
    assert 0.1 < expected[0] < 0.9
    assert (expected > 0).all()  # every size is there
    for name, value in zip(NAMES, expected, strict=True):
        assert metrics[f"coco/{kind}_{name}"] == pytest.approx(value, abs=1e-12)
    table = metrics[f"coco/{kind}_per_class"]
    assert str(table) == "4 classes"
    assert tuple(table) == CLASSES
    keys = ["AP", "AP_50", "AP_75", "AP_s", "AP_m", "AP_l", None, None, "AR", "AR_s", "AR_m", "AR_l"]
    for name, category in zip(CLASSES, IDS, strict=True):
        numbers = theirs(file, found, kind, categories=[category])
        for key, value in zip(keys, numbers, strict=True):
            if key:
                assert table[name][key] == (None if value == -1 else pytest.approx(value, abs=1e-12))
    assert set(table["yak"].values()) == {None}


def test_no_detections_score_zero_and_missing_sizes_stay_missing(scene, tmp_path):
    file, found = scene
    whole = json.loads(file.read_text())
    whole["annotations"] = [a for a in whole["annotations"] if a["area"] < 96**2]
    (tmp_path / "small.json").write_text(json.dumps(whole))
    nothing = [prediction(s["img_id"], [], [], []) for s in found]
    metrics = ours(tmp_path / "small.json", nothing)
    for kind in ("bbox", "segm"):
        expected = theirs(tmp_path / "small.json", nothing, kind)
        assert expected[0] == 0
        assert expected[5] == -1
        assert [metrics[f"coco/{kind}_{name}"] for name in NAMES] == expected.tolist()
        assert metrics[f"coco/{kind}_per_class"]["cat"]["AP"] == 0


def test_only_predicted_images_count(scene, caplog):
    file, found = scene
    part = found[3:14]
    metrics = ours(file, part, metric="segm")
    expected = theirs(file, part, "segm", images=[s["img_id"] for s in part])
    assert [metrics[f"coco/segm_{name}"] for name in NAMES] == pytest.approx(expected.tolist(), abs=1e-12)
    assert "coco/bbox_mAP" not in metrics


def test_ground_truth_given_back_is_perfect(scene):
    file, _ = scene
    truth = COCO(str(file))
    samples = []
    for image in truth.getImgIds():
        anns = [a for a in truth.imgToAnns[image] if not a["iscrowd"]]
        boxes = torch.tensor([a["bbox"] for a in anns], dtype=torch.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        instances = {
            "bboxes": boxes,
            "scores": torch.ones(len(anns)),
            "labels": torch.tensor([IDS.index(a["category_id"]) for a in anns], dtype=torch.long),
            "masks": [rle.encode(np.asfortranarray(truth.annToMask(a))) for a in anns],
        }
        samples.append({"img_id": image, "ori_shape": (SIDE, SIDE), "pred_instances": instances})
    metrics = ours(file, samples)
    for kind in ("bbox", "segm"):
        assert metrics[f"coco/{kind}_mAP"] == pytest.approx(1, abs=1e-12)
        assert metrics[f"coco/{kind}_AR@100"] == pytest.approx(1, abs=1e-12)


def test_written_predictions_score_the_same(scene, tmp_path):
    file, found = scene
    metrics = ours(file, found, outfile_prefix=str(tmp_path / "seen"))
    for kind in ("bbox", "segm"):
        rows = json.loads((tmp_path / f"seen.{kind}.json").read_text())
        assert len(rows) == sum(len(s["pred_instances"]["labels"]) for s in found)
        if kind == "segm":  # pycocotools would take the area of the box
            rows = [{k: v for k, v in row.items() if k != "bbox"} for row in rows]
        with contextlib.redirect_stdout(io.StringIO()):
            truth = COCO(str(file))
            evaluation = COCOeval(truth, truth.loadRes(rows), kind)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        values = [metrics[f"coco/{kind}_{name}"] for name in NAMES]
        assert values == pytest.approx(evaluation.stats.tolist(), abs=1e-12)


def test_other_metrics_are_refused(scene):
    with pytest.raises(ValueError, match="bbox and segm"):
        CMAECocoMetric(ann_file=str(scene[0]), metric=["bbox", "proposal"])
