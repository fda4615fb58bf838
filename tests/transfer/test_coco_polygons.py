"""LSJ with polygons: crops, boxes, crowds, broken outlines, negatives and mask targets, against bitmaps."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmcv.transforms import Compose
from mmdet.datasets import CocoDataset
from mmdet.datasets.transforms import PackDetInputs, RandomCrop
from mmdet.structures.mask import BitmapMasks, PolygonMasks, mask_target
from mmengine.config import ConfigDict
from mmengine.registry import init_default_scope
from PIL import Image
from pycocotools import mask as rle

import cmae_mm.transfer  # noqa: F401
from cmae_mm.data.annotate import run_lengths
from cmae_mm.engine.config import load_config
from cmae_mm.transfer.coco_data import LoadPolygons

CONFIGS = Path(__file__).parents[2] / "configs"
LSJ = CONFIGS / "_base_/datasets/coco_lsj.py"
MINI = CONFIGS / "mini/mask-rcnn_vitdet-mini_coco.py"


def star(rng, centre, radius, points=24):
    angle = np.linspace(0, 2 * np.pi, points, endpoint=False)
    distance = radius * rng.uniform(0.6, 1.2, points)
    return (centre + distance[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)).ravel()


def loaded(instances, height=90, width=120):
    """A sample after loading, without an image file."""
    sample = {"instances": instances, "ori_shape": (height, width), "img_shape": (height, width)}
    sample["img"] = np.zeros((height, width, 3), np.uint8)
    return LoadPolygons().transform(sample)


def instance(mask, box=(5.0, 5.0, 60.0, 60.0), label=0, crowd=0):
    return {"bbox": list(box), "bbox_label": label, "mask": mask, "ignore_flag": crowd}


@pytest.mark.parametrize("seed", range(12))
def test_cropped_polygons_are_cropped_bitmaps(seed):
    rng = np.random.default_rng(seed)
    polygons = [[star(rng, rng.uniform(0, 100, 2), rng.uniform(5, 50))] for _ in range(6)]
    polygons[0].append(star(rng, rng.uniform(0, 100, 2), 8))  # an object in two parts
    polygons = [[p.clip(0, 90) for p in parts] for parts in polygons]
    masks = PolygonMasks(polygons, 90, 120)
    x, y = rng.integers(0, 60, 2)
    crop = np.array([x, y, x + rng.integers(20, 60), y + rng.integers(20, 30)])
    ours = masks.crop(crop).to_ndarray().astype(bool)
    theirs = masks.to_bitmap().crop(crop).to_ndarray().astype(bool)
    assert ours.shape == theirs.shape
    # Rasterising rounds outlines to a fifth of a pixel: pixels on them may differ, some for each unit of length.
    border = sum(np.count_nonzero(np.diff(m.astype(int), axis=a)) for m in theirs for a in (0, 1))
    assert np.count_nonzero(ours != theirs) <= 0.1 * border + 2


def test_boxes_are_taken_from_what_is_left():
    square = [10.0, 20.0, 50.0, 20.0, 50.0, 60.0, 10.0, 60.0]
    triangle = [[80.0, 10.0, 110.0, 10.0, 80.0, 70.0]]
    sample = loaded([instance([square], (10, 20, 50, 60)), instance(triangle, (80, 10, 110, 70), label=2)])
    crop = RandomCrop((60, 50), allow_negative_crop=True, recompute_bbox=True)
    crop._rand_offset = lambda margin: (25, 30)  # y 25 to 75, x 30 to 90
    result = crop.transform(sample)
    boxes = result["gt_bboxes"].tensor.numpy()
    np.testing.assert_allclose(boxes[0], [0, 0, 20, 35], atol=1e-5)
    # the triangle's slanted side is at x = 110 - (y - 10) / 2, so its corner in the crop is (90, 50) and (80, 70)
    np.testing.assert_allclose(boxes[1], [50, 0, 60, 45], atol=1e-5)
    areas = result["gt_masks"].areas
    assert areas[0] == pytest.approx(20 * 35)
    assert areas[1] == pytest.approx(10 * 25 + 10 * 20 / 2)


def test_crowds_and_invalid_outlines_are_left_out():
    mask = np.zeros((90, 120), bool)
    mask[10:40, 10:40] = True
    good = [20.0, 20.0, 60.0, 20.0, 60.0, 60.0]
    sample = loaded(
        [
            instance([good], label=1),
            instance(run_lengths(mask), crowd=1),
            instance([[1.0, 2.0, 3.0, 4.0]]),  # two points
            instance([[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]]),  # half a point
            {"bbox": [1.0, 1.0, 9.0, 9.0], "bbox_label": 0, "ignore_flag": 0},  # no outline at all
            instance([good, [1.0, 2.0, 3.0, 4.0]], label=2),  # one valid part
        ]
    )
    assert sample["gt_ignore_flags"].tolist() == [False, True, True, True, True, False]
    packed = PackDetInputs(meta_keys=()).transform(sample)["data_samples"]
    assert packed.gt_instances.labels.tolist() == [1, 2]
    assert [len(parts) for parts in packed.gt_instances.masks.masks] == [1, 1]


def test_no_anchor_is_ignored_for_a_crowd():
    """As in detectron2, where crowd regions are background: mmdet's assigners ignore nothing unless told to."""
    train = load_config(CONFIGS / "coco/mask-rcnn_vitdet-b-p16_lsj-100e_coco.py").model.train_cfg
    for assigner in (train.rpn.assigner, train.rcnn.assigner):
        assert assigner.get("ignore_iof_thr", -1) < 0


def test_run_lengths_of_objects_become_the_same_pixels():
    rng = np.random.default_rng(3)
    mask = rle.decode(
        rle.merge(rle.frPyObjects([star(rng, (60, 45), 30).clip(0, 89).tolist()], 90, 120))
    ).astype(bool)
    mask[40:44, 55:60] = False  # a hole
    masks = loaded(
        [
            instance(run_lengths(mask)),
            instance(
                {
                    "size": [90, 120],
                    "counts": rle.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode(),
                }
            ),
        ]
    )["gt_masks"]
    assert isinstance(masks, PolygonMasks)
    for drawn in masks.to_ndarray():
        np.testing.assert_array_equal(drawn.astype(bool), mask)


def test_whole_numbers_are_scaled_as_floats():
    masks = loaded([instance([[11, 21, 51, 21, 51, 61]])])["gt_masks"].resize((45, 60))
    np.testing.assert_allclose(masks.masks[0][0], [5.5, 10.5, 25.5, 10.5, 25.5, 30.5])


def test_invalid_shapes_do_not_break_the_crop():
    """A bow tie, a line and a point: what is left of them is cut without an error, or dropped."""
    bow = [10.0, 10.0, 50.0, 50.0, 50.0, 10.0, 10.0, 50.0]
    line = [10.0, 10.0, 30.0, 30.0, 50.0, 50.0]
    point = [20.0, 20.0] * 3
    sample = loaded([instance([p]) for p in (bow, line, point)])
    crop = RandomCrop((80, 70), allow_negative_crop=True, recompute_bbox=True)
    result = crop.transform(sample)
    boxes = result["gt_bboxes"]
    assert np.isfinite(boxes.tensor.numpy()).all()
    assert (boxes.widths[1:] == 0).all()  # dropped by FilterAnnotations


@pytest.fixture(scope="module")
def picture_set(tmp_path_factory):
    """Two images of 300 x 200: an object in a corner beside a crowd; an object of one pixel."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        Image.fromarray(rng.integers(0, 256, (200, 300, 3), dtype=np.uint8)).save(root / f"{name}.png")
    crowd = np.zeros((200, 300), bool)
    crowd[100:180, 20:200] = True
    rows = [
        {
            "segmentation": [[240, 150, 290, 150, 290, 190, 240, 190]],
            "bbox": [240, 150, 50, 40],
            "area": 2000,
        },
        {"segmentation": run_lengths(crowd), "bbox": [20, 100, 180, 80], "area": 14400, "iscrowd": 1},
        {
            "segmentation": [[10, 10, 13, 10, 13, 13, 10, 13]],
            "bbox": [10, 10, 3, 3],
            "area": 9,
            "image_id": 2,
        },
    ]
    rows = [{"id": k, "image_id": 1, "category_id": 1, "iscrowd": 0, **row} for k, row in enumerate(rows, 1)]
    images = [
        {"id": k, "file_name": f"{n}.png", "width": 300, "height": 200} for k, n in ((1, "a"), (2, "b"))
    ]
    whole = {"images": images, "annotations": rows, "categories": [{"id": 1, "name": "thing"}]}
    (root / "instances.json").write_text(json.dumps(whole))
    return root


def lsj(root, size=128):
    """The real training pipeline at a small size."""
    init_default_scope("mmdet")
    steps = load_config(LSJ).train_pipeline
    for step in steps:
        if "scale" in step:
            step["scale"] = (size, size)
        if "crop_size" in step:
            step["crop_size"] = (size, size)
    return CocoDataset(
        ann_file=str(root / "instances.json"), data_prefix=dict(img=str(root)),
        metainfo=dict(classes=("thing",)), pipeline=steps,
    )  # fmt: skip


def test_lsj_samples(picture_set):
    dataset, sizes, negatives = lsj(picture_set), [], 0
    for seed in range(60):
        np.random.seed(seed)
        sample = dataset[seed % 2]
        found = sample["data_samples"].gt_instances
        assert sample["data_samples"].img_id == 1 + seed % 2  # never another image in its place
        height, width = sample["inputs"].shape[1:]
        assert max(height, width) <= 128
        sizes.append(max(height, width))
        negatives += len(found) == 0
        assert len(found) <= 1  # never the crowd
        assert isinstance(found.masks, PolygonMasks)
        if not len(found):
            continue
        box, outline = found.bboxes.tensor[0].numpy(), np.concatenate(found.masks.masks[0]).reshape(-1, 2)
        np.testing.assert_allclose(box, [*outline.min(0), *outline.max(0)], atol=1e-4)
        assert (box >= 0).all()
        assert (box[[2, 3]] <= np.array([width, height]) + 1e-4).all()
    assert negatives >= 5  # crops without an object are kept
    assert min(sizes) < 40
    assert max(sizes) == 128


def test_resize_smooths_as_pillow_does(picture_set):
    """Noise shrunk four times loses nearly all contrast with Pillow's bilinear kernel, and keeps it with OpenCV's."""
    steps = load_config(LSJ).test_pipeline
    steps[1]["scale"] = (75, 75)
    init_default_scope("mmdet")
    sample = Compose([_built(s) for s in steps])({"img_path": str(picture_set / "a.png"), "img_id": 1})
    with Image.open(picture_set / "a.png") as image:
        expected = np.asarray(image.resize((75, 50), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(sample["inputs"].numpy(), expected[..., ::-1].transpose(2, 0, 1))


def _built(step):
    from mmdet.registry import TRANSFORMS

    return TRANSFORMS.build(step)


def test_padding_is_the_mean_colour(picture_set):
    """Pixels are normalised first and padded with zeros after it, as detectron2 does."""
    from mmdet.registry import MODELS

    init_default_scope("mmdet")
    cfg = load_config(CONFIGS / "coco/mask-rcnn_vitdet-b-p16_lsj-100e_coco.py").model.data_preprocessor
    cfg.pad_size_divisor = 128
    sample = lsj(picture_set)[0]
    height, width = sample["inputs"].shape[1:]
    whole = MODELS.build(cfg)(
        {"inputs": [sample["inputs"]], "data_samples": [sample["data_samples"]]}, training=True
    )
    assert whole["inputs"].shape == (1, 3, 128, 128)
    padding = torch.ones(128, 128, dtype=torch.bool)
    padding[:height, :width] = False
    assert padding.any()
    assert (whole["inputs"][0][:, padding] == 0).all()


@pytest.mark.parametrize("seed", range(4))
def test_mask_targets_of_polygons_and_bitmaps(seed):
    """A polygon drawn in its box, and a bitmap sampled there, differ on the border only."""
    rng = np.random.default_rng(seed)
    polygons = PolygonMasks([[star(rng, (70, 70), 55)], [star(rng, (60, 80), 40)]], 140, 140)
    bitmaps = BitmapMasks(polygons.to_ndarray().astype(np.uint8), 140, 140)
    boxes, which = (
        torch.tensor([[10.0, 12, 130, 128], [15, 35, 110, 125], [60, 60, 100, 140]]),
        torch.tensor([0, 1, 1]),
    )
    settings = ConfigDict(mask_size=28)
    ours = mask_target([boxes], [which], [polygons], settings)
    theirs = mask_target([boxes], [which], [bitmaps], settings)
    assert ours.shape == theirs.shape == (3, 28, 28)
    assert set(ours.unique().tolist()) <= {0.0, 1.0}
    border = sum(m.diff(dim=d).abs().sum() for m in theirs for d in (0, 1))
    assert (ours != theirs).sum() <= 0.25 * border
    assert abs(ours.mean() - theirs.mean()) < 0.02


def test_mini_set_uses_the_same_steps():
    kinds = [[step["type"] for step in load_config(path).train_pipeline] for path in (LSJ, MINI)]
    assert kinds[0] == kinds[1]
