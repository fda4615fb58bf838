"""Segmentation scores against mmseg's metric, against loops over pixels, and over two processes."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from ports import free_port

import cmae_mm.transfer  # noqa: F401

# isort: split
from mmseg.evaluation import IoUMetric

from cmae_mm.errors import UserError
from cmae_mm.transfer.confusion import (
    boundary_areas,
    boundary_width,
    confusion_matrices,
    inner_boundary,
)
from cmae_mm.transfer.dense_probe import DenseKNNHead
from cmae_mm.transfer.segmentation_metric import CMAESegMetric

VOID = 255


def blobs(seed, sizes, classes, void=0.1, agree=0.7):
    """Label maps of smooth segments and predictions that partly agree."""
    generator = torch.Generator().manual_seed(seed)
    true, given = [], []
    for height, width in sizes:
        coarse = torch.rand(2, classes, height // 4 + 1, width // 4 + 1, generator=generator)
        fine = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear").argmax(1)
        keep = torch.rand(height // 3 + 1, width // 3 + 1, generator=generator) < agree
        keep = keep.repeat_interleave(3, 0).repeat_interleave(3, 1)[:height, :width]
        given.append(torch.where(keep, fine[0], fine[1]))
        hidden = torch.rand(height // 5 + 1, width // 5 + 1, generator=generator) < void
        hidden = hidden.repeat_interleave(5, 0).repeat_interleave(5, 1)[:height, :width]
        true.append(fine[0].masked_fill(hidden, VOID))
    return given, true


def samples(given, true):
    return [
        {"pred_sem_seg": {"data": g[None]}, "gt_sem_seg": {"data": t[None]}}
        for g, t in zip(given, true, strict=True)
    ]


def evaluate(kind, given, true, classes, batch=2, **options):
    metric = kind(**options)
    metric.dataset_meta = {"classes": classes}
    for start in range(0, len(true), batch):
        metric.process({}, samples(given[start : start + batch], true[start : start + batch]))
    return metric.evaluate(len(true))


def names(count):
    return tuple(f"class {k}" for k in range(count))


@pytest.mark.parametrize("classes", [2, 7, 150])
def test_confusion_matrices_equal_a_loop_over_pixels(classes):
    given, true = blobs(0, [(9, 14), (9, 14), (5, 6)], classes)
    true[0][0, 0], given[1][2, 3] = classes + 3, classes + 1  # labels that are no class
    found = confusion_matrices(given, true, classes)
    for k, (g, t) in enumerate(zip(given, true, strict=True)):
        pairs = zip(t.flatten().tolist(), g.flatten().tolist(), strict=True)
        expected = Counter((min(a, classes), min(b, classes)) for a, b in pairs if a != VOID)
        assert {tuple(i): int(found[k][tuple(i)]) for i in found[k].nonzero().tolist()} == dict(expected)


@pytest.mark.parametrize(
    ("classes", "sizes"), [(3, [(20, 30)]), (10, [(33, 17), (33, 17), (8, 64), (40, 40), (33, 17)])]
)
def test_scores_equal_mmseg_within_its_rounding(classes, sizes):
    given, true = blobs(classes, sizes, classes)
    wanted = ["mIoU", "mDice", "mFscore"]
    ours = evaluate(CMAESegMetric, given, true, names(classes), iou_metrics=wanted)
    theirs = evaluate(IoUMetric, given, true, names(classes), iou_metrics=wanted)
    assert set(theirs) == set(ours) - {"mBIoU", "per_class"}
    for key, value in theirs.items():
        assert abs(ours[key] - value) <= 0.005 + 1e-4, key  # two decimals, and float32
    # The whole table too: mmseg's float32 areas are exact below 2^24 pixels.
    areas = [
        sum(a)
        for a in zip(
            *(IoUMetric.intersect_and_union(g, t, classes, VOID) for g, t in zip(given, true, strict=True)),
            strict=True,
        )
    ]
    table = IoUMetric.total_area_to_metrics(*areas)
    for key in ("IoU", "Acc"):
        mine = [ours["per_class"][name][key] for name in names(classes)]
        np.testing.assert_allclose([np.nan if v is None else v for v in mine], 100 * table[key], rtol=1e-5)


def test_a_hand_counted_example():
    true = torch.tensor([[0, 0, 1, 255], [0, 2, 1, 1]])
    given = torch.tensor([[0, 1, 1, 1], [0, 0, 1, 2]])
    found = evaluate(CMAESegMetric, [given], [true], ("sky", "wall", "cat", "dog"), dilation_ratio=None)
    table = found.pop("per_class")
    # sky 2 of {3 true, 3 given} -> 2/4, wall 2 of {3, 3} -> 2/4, cat 0 of {1, 1} -> 0/2, dog nowhere
    assert {k: v["IoU"] for k, v in table.items()} == {"sky": 50.0, "wall": 50.0, "cat": 0.0, "dog": None}
    assert table["dog"] == {"IoU": None, "Acc": None}
    assert found == pytest.approx(
        {"aAcc": 400 / 7, "mIoU": 100 / 3, "mAcc": 100 * (2 / 3 + 2 / 3 + 0) / 3}, abs=1e-12
    )


def test_counts_beyond_float32_stay_exact():
    """2^24 + 1 pixels in float32 are 2^24; the matrix is int64."""
    metric = CMAESegMetric(dilation_ratio=None)
    metric.dataset_meta = {"classes": ("one", "two")}
    counts = torch.zeros(1 + 9 + 6, dtype=torch.int64)
    counts[0], counts[1], counts[2] = (
        1,
        2**24,
        1,
    )  # the first row of the matrix: of class one, so many and one wrong
    found = metric.compute_metrics(counts)
    assert found["aAcc"] == 100 * 2**24 / (2**24 + 1) < 100


def loop_boundary(labels, distance):
    """Boundary of each segment, pixel by pixel: a window that is not all of one label, or leaves the image."""
    height, width = labels.shape
    rows, span = labels.tolist(), range(-distance, distance + 1)

    def differs(y, x, v, u):
        return not (0 <= v < height and 0 <= u < width) or rows[v][u] != rows[y][x]

    marked = [
        [any(differs(y, x, y + i, x + j) for i in span for j in span) for x in range(width)]
        for y in range(height)
    ]
    return torch.tensor(marked)


@pytest.mark.parametrize("distance", [1, 2, 3, 5])
@pytest.mark.parametrize("size", [(12, 17), (5, 23), (16, 16)])
def test_inner_boundary_equals_a_loop(distance, size):
    _, true = blobs(distance, [size], 3)
    assert torch.equal(inner_boundary(true[0][None], distance)[0], loop_boundary(true[0], distance))


@pytest.mark.parametrize("ratio", [0.02, 0.05, 0.1])
def test_boundary_areas_equal_erosion_of_each_class(ratio):
    """Oracle: one binary mask a class, eroded by a 3 x 3 square d times with zeros outside."""
    classes, size = 5, (48, 60)
    given, true = blobs(3, [size] * 2, classes)
    found = boundary_areas(torch.stack(given), torch.stack(true), classes, ratio)
    steps = boundary_width(*size, ratio)
    assert steps == max(1, round(ratio * (48**2 + 60**2) ** 0.5))

    def edge(mask):
        framed = cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
        inner = cv2.erode(framed, np.ones((3, 3), np.uint8), iterations=steps)[1:-1, 1:-1]
        return mask & ~inner.astype(bool)

    for k in range(2):
        valid = (true[k] != VOID).numpy()
        for c in range(classes):
            near_true = edge((true[k] == c).numpy() & valid)
            near_given = edge((given[k] == c).numpy() & valid)
            areas = [int((near_given & near_true).sum()), int(near_given.sum()), int(near_true.sum())]
            assert found[k, :, c].tolist() == areas


def test_boundary_iou_sees_what_iou_does_not():
    """A square that is one pixel too large: nearly all of its area is right, half of its band is not."""
    true = torch.zeros(100, 100, dtype=torch.long)
    true[20:80, 20:80] = 1
    given = torch.zeros_like(true)
    given[19:81, 19:81] = 1
    found = evaluate(CMAESegMetric, [given], [true], ("ground", "square"), dilation_ratio=0.007)  # d = 1
    square = found["per_class"]["square"]
    assert square["IoU"] == pytest.approx(100 * 60**2 / 62**2)
    assert square["BIoU"] == 0.0  # the two rings of one pixel do not touch
    same = evaluate(CMAESegMetric, [true], [true], ("ground", "square"))
    assert same["mBIoU"] == same["mIoU"] == 100.0


def test_void_makes_no_boundary_error():
    given, true = blobs(4, [(40, 50)], 4, void=0.4)
    right = torch.where(true[0] == VOID, given[0], true[0])
    found = evaluate(CMAESegMetric, [right], [true[0]], names(4))
    assert found["mBIoU"] == found["aAcc"] == 100.0


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """What each of two gloo processes found, and what they were given."""
    folder = tmp_path_factory.mktemp("two")
    given, true = blobs(6, [(20, 24), (18, 30), (20, 24)], 5)
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (3, 12, 20), generator=generator)
    maps = torch.randn(3, 6, 3, 5, generator=generator)
    data = {"given": given, "true": true, "classes": names(5), "maps": maps, "labels": labels}
    torch.save(data, folder / "data.pt")
    shared = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "WORLD_SIZE": "2"}
    shared["PYTHONPATH"] = str(Path(__file__).parents[2])
    worker = [sys.executable, str(Path(__file__).with_name("ade20k_worker.py")), str(folder)]
    workers = [subprocess.Popen(worker, env={**shared, "RANK": str(rank)}) for rank in range(2)]
    assert [process.wait(timeout=120) for process in workers] == [0, 0]
    return data, [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def test_two_processes_count_a_repeated_image_once(two_processes):
    data, found = two_processes
    alone = evaluate(CMAESegMetric, data["given"], data["true"], data["classes"])
    assert [part["scores"] for part in found] == [alone, alone]


def test_two_processes_share_one_memory_of_patches(two_processes):
    """Every process predicts what one process predicts that remembers all images."""
    data, found = two_processes
    head = DenseKNNHead(patch_size=4, neighbours=3, in_channels=6, in_index=0, num_classes=3)
    head.remember((data["maps"],), data["labels"], count=15)
    head.share_memory()
    expected = head((data["maps"],))
    for part in found:
        assert part["memory"] == 45
        torch.testing.assert_close(torch.tensor(part["shares"]), expected, atol=1e-5, rtol=0)


def test_an_evaluation_of_nothing_is_a_mistake():
    metric = CMAESegMetric()
    metric.dataset_meta = {"classes": names(3)}
    with pytest.raises(UserError, match="no image was evaluated"):
        metric.evaluate(0)


def test_predictions_are_written_as_label_maps_of_ade20k(tmp_path):
    given, true = blobs(1, [(10, 12)], 3)
    metric = CMAESegMetric(output_dir=str(tmp_path), format_only=True)
    metric.dataset_meta = {"classes": names(3)}
    sample = {**samples(given, true)[0], "img_path": "a/ADE_val_1.jpg", "reduce_zero_label": True}
    metric.process({}, [sample])
    assert metric.evaluate(1) == {}
    assert np.array_equal(np.asarray(Image.open(tmp_path / "ADE_val_1.png")), given[0].numpy() + 1)
