"""AP of a model that finds nothing, and of one that finds everything."""

import numpy as np
import pytest
import torch
from pycocotools import mask as rle
from pycocotools.coco import COCO

from cmae_mm.transfer.coco_metric import CMAECocoMetric


def prediction(api, image_id, categories, score):
    entries = [a for a in api.imgToAnns[image_id] if not a["iscrowd"]] if score else []
    boxes = [
        [a["bbox"][0], a["bbox"][1], a["bbox"][0] + a["bbox"][2], a["bbox"][1] + a["bbox"][3]]
        for a in entries
    ]
    return {
        "img_id": image_id,
        "pred_instances": {
            "bboxes": torch.tensor(boxes).reshape(-1, 4),
            "scores": torch.full((len(entries),), score),
            "labels": torch.tensor([categories.index(a["category_id"]) for a in entries], dtype=torch.long),
            "masks": [rle.encode(np.asfortranarray(api.annToMask(a))) for a in entries],
        },
    }


@pytest.mark.parametrize(("score", "expected"), [(0.0, 0.0), (0.9, 1.0)])
def test_every_ap_is_there(mini_data, score, expected):
    file = mini_data / "coco" / "annotations" / "instances_train2017.json"
    api = COCO(str(file))
    metric = CMAECocoMetric(ann_file=str(file), metric=["bbox", "segm"])
    metric.dataset_meta = {"classes": tuple(c["name"] for c in api.dataset["categories"])}
    categories = [c["id"] for c in api.dataset["categories"]]
    samples = [
        {"ori_shape": (i["height"], i["width"]), **prediction(api, i["id"], categories, score)}
        for i in api.dataset["images"]
    ]
    metric.process({}, samples)
    found = metric.evaluate(len(samples))
    for name in ("coco/bbox_mAP", "coco/bbox_mAP_50", "coco/segm_mAP"):
        assert found[name] == pytest.approx(expected, abs=1e-3)
