"""The checks accept real photographs, where some are at hand.

Set CMAE_MM_PHOTOS to a folder with cls_imagenette128/, det_coco_mini/ and seg_nyuv2_39c/.
"""

import os
from pathlib import Path

import pytest

from cmae_mm.data.ade20k_checks import check_ade20k
from cmae_mm.data.checks import check_image_folder
from cmae_mm.data.coco_checks import check_coco

PHOTOS = Path(os.environ.get("CMAE_MM_PHOTOS", "absent"))
pytestmark = pytest.mark.skipif(not PHOTOS.is_dir(), reason="CMAE_MM_PHOTOS names no folder of photographs")


@pytest.mark.parametrize("split", ["train", "val"])
def test_real_image_folder(split):
    check_image_folder(PHOTOS / "cls_imagenette128", split)


@pytest.mark.parametrize("split", ["train2017", "val2017"])
def test_real_coco(split):
    root = PHOTOS / "det_coco_mini"
    check_coco(root / "annotations" / f"instances_{split}.json", root / split)


@pytest.mark.parametrize("split", ["training", "validation"])
def test_real_label_maps(split):
    root = PHOTOS / "seg_nyuv2_39c"
    check_ade20k(root / "images" / split, root / "annotations" / split, 39)
    with pytest.raises(Exception, match="class"):
        check_ade20k(root / "images" / split, root / "annotations" / split, 20)
