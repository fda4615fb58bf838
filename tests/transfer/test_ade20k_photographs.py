"""ADE20K's true format end to end, on three of its photographs, where they are at hand.

Set CMAE_MM_PHOTOS to a folder with seg_ade20k_sample/ (images, annotations, objectInfo150.csv) and seg_nyuv2_39c/.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import cmae_mm.transfer  # noqa: F401

# isort: split
from mmseg.datasets import ADE20KDataset

from cmae_mm.data.ade20k_checks import check_ade20k
from cmae_mm.data.class_names import read_class_names

PHOTOS = Path(os.environ.get("CMAE_MM_PHOTOS", "absent"))
ROOT = PHOTOS / "seg_ade20k_sample"
pytestmark = pytest.mark.skipif(not ROOT.is_dir(), reason="CMAE_MM_PHOTOS names no folder of photographs")


def test_ade20k_classes_are_in_the_official_order():
    """The official table writes the words of a name apart, so the first word is compared."""
    official, ours = read_class_names(ROOT), [name.strip() for name in ADE20KDataset.METAINFO["classes"]]
    assert len(official) == len(ours) == 150
    assert [o for o, name in zip(official, ours, strict=True) if not name.startswith(o)] == []


def test_ade20k_files_pass_the_checks():
    found = check_ade20k(ROOT / "images/validation", ROOT / "annotations/validation", 150)
    assert (found.images, found.classes) == (3, 150)
    assert 0.03 < found.void < 0.04


def test_ade20k_labels_are_shifted_once():
    """0 becomes 255, k becomes k - 1: the sky of the first photograph is class 2."""
    from mmcv.transforms import LoadImageFromFile
    from mmengine.registry import init_default_scope
    from mmseg.datasets.transforms import LoadAnnotations, PackSegInputs

    init_default_scope("mmseg")
    dataset = ADE20KDataset(
        data_root=str(ROOT),
        data_prefix=dict(img_path="images/validation", seg_map_path="annotations/validation"),
        pipeline=[dict(type=LoadImageFromFile), dict(type=LoadAnnotations), dict(type=PackSegInputs)],
    )
    for k in range(3):
        sample = dataset[k]["data_samples"]
        raw = np.asarray(Image.open(sample.seg_map_path)).astype(int)
        expected = np.where(raw == 0, 255, raw - 1)
        assert np.array_equal(sample.gt_sem_seg.data[0].numpy(), expected)
    names = dataset.metainfo["classes"]
    first = dataset[0]["data_samples"].gt_sem_seg.data
    assert {names[c] for c in first.unique().tolist() if c != 255} >= {"sky", "building", "grass", "tree"}


def test_ade20k_recipe_runs_on_photographs(call, tmp_path):
    """The 150-class recipe at reduced width: trains, evaluates at the original size, draws."""
    from cmae_mm.engine.launch import train_main
    from cmae_mm.transfer.segmentation_pictures import segmentations_main

    config, prefix = (
        "configs/ade20k/linear_vit-b-p16_8xb2-40k_ade20k-512x512.py",
        "train_dataloader.dataset.data_prefix",
    )
    small = ["depth=1", "out_indices=(0,)", "embed_dims=48", "num_heads=3"]
    options = [
        *(f"model.backbone.{o}" for o in small),
        "model.decode_head.in_channels=48",
        f"{prefix}.img_path=images/validation",
        f"{prefix}.seg_map_path=annotations/validation",
        "train_cfg.max_iters=2",
        "train_cfg.val_interval=2",
        *(
            f"{p}_dataloader.{o}"
            for p in ("train", "val", "test")
            for o in ("num_workers=0", "persistent_workers=False")
        ),
    ]
    words = ("--data-root", ROOT, "--cfg-options", *options)
    assert call(train_main, config, "--work-dir", tmp_path / "work", *words) == 0
    last = json.loads((tmp_path / "work/result.json").read_text())["last"]
    assert len(last["per_class"]) == 150
    assert {"mIoU", "aAcc", "mAcc", "mBIoU"} <= set(last)
    assert last["per_class"]["sky"]["IoU"] is not None
    picture = tmp_path / "picture.png"
    checkpoint = tmp_path / "work/last.pth"
    chosen = ("--images", "ADE_val_00000002", "--out", picture)
    assert call(segmentations_main, config, checkpoint, *chosen, *words) == 0
    assert picture.is_file()
