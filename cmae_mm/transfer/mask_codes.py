"""Masks as COCO's run lengths, in a batch.

pycocotools copies and reads each whole mask, pixel by pixel in column order. Here only the rectangle that
holds a mask's pixels is looked at, by NumPy.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools import mask as mask_api


def encode_masks(masks: torch.Tensor) -> list[dict[str, Any]]:
    """Encode masks as COCO's compressed run lengths.

    Args:
        masks: (N, H, W), boolean or with 1 for object and 0 elsewhere, on any device.

    Returns:
        For each mask ``size`` (H, W) and ``counts``, a string that can go into JSON: what
        ``pycocotools.mask.encode`` gives, decoded.
    """
    height, width = masks.shape[1:]
    pixels = masks.detach().bool().cpu().numpy().view(np.uint8)
    filled_rows: NDArray[np.bool_] = np.any(pixels, axis=2)
    codes = []
    for mask, rows in zip(pixels, filled_rows, strict=True):
        counts = {"size": [height, width], "counts": _run_lengths(mask, rows)}
        code = mask_api.frPyObjects(counts, height, width)
        codes.append({"size": [height, width], "counts": code["counts"].decode()})
    return codes


def _run_lengths(mask: NDArray[np.uint8], rows: NDArray[np.bool_]) -> list[int]:
    """Lengths of alternating runs in column order, zeros first.

    Args:
        mask: (H, W) of 0 and 1.
        rows: (H,), which rows hold any 1.
    """
    height, width = mask.shape
    filled = np.flatnonzero(rows)
    if not len(filled):
        return [height * width]
    top, bottom = int(filled[0]), int(filled[-1]) + 1
    band = mask[top:bottom]
    columns = np.flatnonzero(band.any(axis=0))
    left, right = int(columns[0]), int(columns[-1]) + 1
    # A zero before and after each column keeps runs of neighbouring columns apart.
    framed = np.zeros((right - left, bottom - top + 2), np.uint8)
    framed[:, 1:-1] = band[:, left:right].T
    flat = framed.reshape(-1)
    column, row = np.divmod(np.flatnonzero(flat[1:] != flat[:-1]), framed.shape[1])
    starts, ends = ((column + left) * height + row + top).reshape(-1, 2).T
    apart = starts[1:] != ends[:-1]  # a column that is full to its end may go on at the top of the next
    borders = np.stack([starts[np.r_[True, apart]], ends[np.r_[apart, True]]], axis=1).reshape(-1)
    counts: list[int] = np.diff(borders, prepend=0, append=height * width).tolist()
    return counts if counts[-1] else counts[:-1]
