"""Run lengths of masks are pycocotools' own, for masks of every shape."""

import numpy as np
import pytest
import torch
from pycocotools import mask as rle

from cmae_mm.transfer.mask_codes import encode_masks


def theirs(masks):
    codes = [rle.encode(np.asfortranarray(m.astype(np.uint8))) for m in masks]
    return [{"size": c["size"], "counts": c["counts"].decode()} for c in codes]


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (7, 5), (40, 64), (333, 127)])
@pytest.mark.parametrize("density", [0.02, 0.5, 0.98])
def test_noise(shape, density):
    masks = np.random.default_rng(0).random((6, *shape)) < density
    assert encode_masks(torch.from_numpy(masks)) == theirs(masks)


def test_edges_and_full_columns():
    masks = np.zeros((9, 6, 8), bool)
    masks[1] = True
    masks[2, :, 3:5] = True  # two full columns are one run
    masks[3, :, 0] = True
    masks[4, :, -1] = True
    masks[5, 2:, 3] = masks[5, :2, 4] = True  # a run that goes on in the next column
    masks[6, 0, 0] = masks[6, -1, -1] = True
    masks[7, 0] = masks[7, -1] = True
    masks[8, 1:-1, 1:-1] = True
    assert encode_masks(torch.from_numpy(masks)) == theirs(masks)
    assert [rle.area(code) for code in encode_masks(torch.from_numpy(masks))] == masks.sum((1, 2)).tolist()


def test_numbers_instead_of_booleans_and_no_masks():
    masks = np.random.default_rng(1).random((3, 20, 30)) < 0.3
    assert encode_masks(torch.from_numpy(masks.astype(np.uint8))) == theirs(masks)
    assert encode_masks(torch.from_numpy(masks).transpose(1, 2)) == theirs(masks.transpose(0, 2, 1))
    assert encode_masks(torch.zeros(0, 4, 5, dtype=torch.bool)) == []
