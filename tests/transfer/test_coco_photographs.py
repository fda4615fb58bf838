"""Real photographs of COCO, where some are at hand: CMAE_MM_PHOTOS names a folder with det_coco_mini/."""

import contextlib
import io
import json
import os
from pathlib import Path

import pytest
import torch
from pycocotools.coco import COCO

from cmae_mm.data.coco_checks import check_coco
from cmae_mm.engine.launch import evaluate_main, train_main
from cmae_mm.transfer.coco_metric import CMAECocoMetric

ROOT = Path(os.environ.get("CMAE_MM_PHOTOS", "absent")) / "det_coco_mini"
OVERFIT = "configs/mini/mask-rcnn_vitdet-mini_coco-overfit.py"
pytestmark = pytest.mark.skipif(
    not ROOT.is_dir(), reason="CMAE_MM_PHOTOS names no folder with det_coco_mini/"
)


def load(split):
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(ROOT / "annotations" / f"instances_{split}.json"))


@pytest.mark.parametrize("split", ["train2017", "val2017"])
def test_ground_truth_given_back_is_perfect(split):
    file = ROOT / "annotations" / f"instances_{split}.json"
    truth = load(split)
    counts = check_coco(file, ROOT / split)
    assert counts["crowd regions (left out of training)"] > 20
    assert counts["empty images"] in (2, 3)
    metric = CMAECocoMetric(ann_file=str(file))
    metric.dataset_meta = {"classes": tuple(c["name"] for c in truth.dataset["categories"])}
    ids = [c["id"] for c in truth.dataset["categories"]]
    for image in truth.dataset["images"]:
        anns = [a for a in truth.imgToAnns[image["id"]] if not a["iscrowd"]]
        boxes = torch.tensor([a["bbox"] for a in anns], dtype=torch.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        instances = {"bboxes": boxes, "scores": torch.ones(len(anns))}
        instances["labels"] = torch.tensor([ids.index(a["category_id"]) for a in anns], dtype=torch.long)
        instances["masks"] = [truth.annToRLE(a) for a in anns]
        shape = (image["height"], image["width"])
        metric.process({}, [{"img_id": image["id"], "ori_shape": shape, "pred_instances": instances}])
    found = metric.evaluate(len(truth.dataset["images"]))
    for kind in ("bbox", "segm"):
        for name in ("mAP", "mAP_50", "mAP_75", "mAP_s", "mAP_m", "mAP_l", "AR@100"):
            assert found[f"coco/{kind}_{name}"] == pytest.approx(1, abs=1e-9), (kind, name)
        for name, row in found[f"coco/{kind}_per_class"].items():
            assert row["AP"] == pytest.approx(1, abs=1e-9), name


def chosen():
    """Positions of 32 images: 2 with crowds, 2 without objects, 28 with 1 to 4 objects, none below 32 x 32 px."""
    truth = load("train2017")
    anns = [truth.imgToAnns[image["id"]] for image in truth.dataset["images"]]
    crowd = [k for k, rows in enumerate(anns) if any(a["iscrowd"] for a in rows)]
    crowd.sort(key=lambda k: len(anns[k]))
    empty = [k for k, rows in enumerate(anns) if not rows]
    few = [
        k
        for k, rows in enumerate(anns)
        if 1 <= len(rows) <= 4 and k not in crowd and min(a["area"] for a in rows) >= 32**2
    ]
    return sorted(crowd[:2] + empty[:2] + few[:28])


@pytest.mark.slow
def test_a_small_vit_learns_32_images_by_heart(call, tmp_path):
    """About 20 minutes on one core: box AP over 0.5 on the very images it trained on."""
    indices = str(chosen()).replace(" ", "")
    phases = ("train", "val", "test")
    options = [f"{phase}_dataloader.dataset.indices={indices}" for phase in phases]
    words = ("--work-dir", tmp_path, "--data-root", ROOT, "--cfg-options", *options)
    assert call(train_main, OVERFIT, *words) == 0
    record = json.loads((tmp_path / "result.json").read_text())
    assert record["last"]["coco/bbox_mAP"] > 0.5
    assert call(evaluate_main, OVERFIT, tmp_path / "last.pth", *words) == 0
    tested = json.loads((tmp_path / "test_result.json").read_text())["last"]
    assert tested["coco/bbox_mAP"] == pytest.approx(record["last"]["coco/bbox_mAP"], abs=1e-9)
