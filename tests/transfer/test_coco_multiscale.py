"""Samples of the protocols with many sizes: CAE's and iBOT's twelve epochs."""

from pathlib import Path

import cmae_mm.compat  # noqa: F401  (before torchvision, which the libraries import)

# isort: split
import numpy as np
from mmdet.structures.mask import PolygonMasks
from mmengine.registry import DATASETS, DefaultScope

from cmae_mm.engine.config import load_config, set_data_root

CONFIG = Path(__file__).parents[2] / "configs/coco/mask-rcnn_fpn-vit-b-p16_ms-12e_coco.py"


def test_samples_have_a_known_size_and_whole_objects(mini_data):
    cfg = load_config(str(CONFIG))
    set_data_root(cfg, mini_data / "coco")
    np.random.seed(0)
    with DefaultScope.overwrite_default_scope("mmdet"):
        dataset = DATASETS.build(cfg.train_dataloader.dataset)
        samples = [dataset[i % len(dataset)] for i in range(24)]
    shorts, objects = set(), 0
    for sample in samples:
        height, width = sample["inputs"].shape[1:]
        shorts.add(min(height, width))
        assert max(height, width) <= 1333
        found = sample["data_samples"].gt_instances
        assert isinstance(found.masks, PolygonMasks)
        assert len(found.bboxes) == len(found.masks) == len(found.labels)
        boxes = found.bboxes.tensor if hasattr(found.bboxes, "tensor") else found.bboxes
        objects += len(boxes)
        if len(boxes):
            assert boxes.min() >= 0
            assert boxes[:, 2].max() <= width
            assert boxes[:, 3].max() <= height
    assert shorts <= set(range(480, 801, 32))
    assert len(shorts) > 3
    assert objects > 0
