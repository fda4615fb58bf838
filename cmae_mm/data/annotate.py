"""From exact masks to COCO annotations: polygons, run lengths, boxes."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cmae_mm.data.taxonomy import CLASSES_COCO, COCO_CATEGORY_IDS

Mask = NDArray[np.bool_]


def _outline(mask: NDArray[np.uint8]) -> tuple[list[float], NDArray[np.uint8] | None]:
    """The border of one connected, hole-free region along the edges of its pixels.

    Returns:
        Flat x, y list; and, when the region has a hole instead, None and a hole's mask.
    """
    # At three times the size the border pixels of a run lie at 3i and 3i + 2, which (v + 1) // 3 sends to
    # the pixel edges i and i + 1; concave corners, which the tracing cuts, land on the same edge point.
    large = np.pad(cv2.resize(mask, None, fx=3, fy=3, interpolation=cv2.INTER_NEAREST), 1)
    contours, tree = cv2.findContours(large, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE, offset=(-1, -1))
    outer = next(k for k, node in enumerate(tree[0]) if node[3] < 0)
    if tree[0][outer][2] >= 0:
        return [], contours[tree[0][outer][2]][:, 0]
    points = (contours[outer][:, 0] + 1) // 3
    points = points[np.any(points != np.roll(points, 1, axis=0), axis=1)]
    before, after = points - np.roll(points, 1, axis=0), np.roll(points, -1, axis=0) - points
    corners = points[before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]]
    return corners.astype(float).ravel().tolist(), None


def polygons(mask: Mask) -> list[list[float]]:
    """Polygons that cover exactly the pixels of a mask.

    They run along pixel edges. Separate regions become separate polygons. COCO's polygons cannot have
    holes, so a region with a hole is cut in two through it.

    Args:
        mask: (h, w).

    Returns:
        COCO's `segmentation`: one flat list x0, y0, x1, y1, ... for each polygon.
    """
    found: list[list[float]] = []
    waiting = [mask.astype(np.uint8)]
    while waiting:
        piece = waiting.pop()
        count, regions = cv2.connectedComponents(piece, connectivity=4)
        for k in range(1, count):
            region = (regions == k).astype(np.uint8)
            points, hole = _outline(region)
            if hole is None:
                found.append(points)
                continue
            # The traced border of a hole is made of the pixels around it.
            left, right = (hole[:, 0].min() + 1) // 3, hole[:, 0].max() // 3
            cut = int(left) + max(1, int(right - left) // 2)
            halves = region.copy(), region
            halves[0][:, cut:] = 0
            halves[1][:, :cut] = 0
            waiting += halves
    return found


def run_lengths(mask: Mask) -> dict[str, list[int]]:
    """COCO's uncompressed RLE: lengths of alternating runs in column order, zeros first.

    Args:
        mask: (h, w).

    Returns:
        `counts` and `size` (h, w).
    """
    flat = mask.ravel(order="F").astype(np.int8)
    edges = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *edges, flat.size]).tolist()
    return {"counts": ([0, *counts] if flat[0] else counts), "size": [int(n) for n in mask.shape]}


def box(mask: Mask) -> list[float]:
    """The tight box of a mask that is not empty: x, y, width, height."""
    x = np.flatnonzero(mask.any(axis=0))
    y = np.flatnonzero(mask.any(axis=1))
    return [float(x[0]), float(y[0]), float(x[-1] - x[0] + 1), float(y[-1] - y[0] + 1)]


def coco_annotation(name: str, mask: Mask, crowd: bool) -> dict[str, Any]:
    """One entry of `annotations`, without `id` and `image_id`.

    Args:
        name: One of `CLASSES_COCO`.
        mask: (h, w), not empty.
        crowd: Whether it is a crowd region, stored as run lengths instead of polygons.

    Returns:
        The entry.
    """
    return {
        "category_id": COCO_CATEGORY_IDS[CLASSES_COCO.index(name)],
        "segmentation": run_lengths(mask) if crowd else polygons(mask),
        "area": float(np.count_nonzero(mask)),
        "bbox": box(mask),
        "iscrowd": int(crowd),
    }
