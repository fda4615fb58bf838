"""Outlines of objects in a COCO file: polygons and run lengths, looked at in large batches."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cmae_mm.errors import UserError

_FEW = (
    0.01  # of all objects: so many outlines without three points are an accident, more are an error of export
)
_SLACK = 1.0  # pixels that an outline may leave the image by rounding
_BATCH = 20_000  # annotations looked at together: bounds the memory

Row = dict[str, Any]


def check_outlines(path: Path, rows: Sequence[Row], sizes: dict[Any, tuple[int, int]]) -> dict[str, int]:
    """Check the `segmentation` of all annotations.

    Args:
        path: Annotation file, for messages.
        rows: Its `annotations`.
        sizes: Id of an image to its width and height.

    Returns:
        Numbers of `polygons without three points`, of `objects without an outline` (neither is trained on), of
        `outlines beyond the image` (cut), and of `objects as run lengths` (made polygons).

    Raises:
        UserError: A coordinate is no finite number, an outline lies outside its image, run lengths do not
            fit the image, or more than 1 in 100 objects have no valid outline.
    """
    if not any(row.get("segmentation") for row in rows):
        return {}  # boxes only
    short = bare = beyond = coded = 0
    example = None
    for start in range(0, len(rows), _BATCH):
        polygons = []
        for row in rows[start : start + _BATCH]:
            if isinstance(row.get("segmentation"), dict):
                _check_run_lengths(path, row, sizes)
                coded += not row.get("iscrowd")
            elif not row.get("iscrowd"):
                polygons.append(row)
        valid, owners, edges = _valid_polygons(path, polygons)
        short += int((~valid).sum())
        owns = np.zeros(len(polygons), bool)
        owns[owners[valid]] = True
        bare += int((~owns).sum())
        example = example or next((row for row, own in zip(polygons, owns, strict=True) if not own), None)
        beyond += _check_inside(path, polygons, owners[valid], edges, sizes)
    if example and bare > max(_FEW * len(rows), 1):
        raise UserError(
            f"{bare} of {len(rows)} objects in {path} have no polygon of three points or more, such as annotation "
            f"{example['id']}; a polygon is a list x0, y0, x1, y1, x2, y2 and so on"
        )
    return {
        "polygons without three points (left out)": short,
        "objects without an outline (left out)": bare,
        "outlines beyond the image (cut)": beyond,
        "objects as run lengths (made polygons)": coded,
    }


def _valid_polygons(
    path: Path, rows: Sequence[Row]
) -> tuple[NDArray[np.bool_], NDArray[np.intp], NDArray[np.float64]]:
    """Look at the polygons of some annotations.

    Returns:
        For each polygon whether it has three points or more, and the position of its annotation in `rows`; for
        each valid one its lowest x and y and highest x and y.
    """
    found = [(k, polygon) for k, row in enumerate(rows) for polygon in row.get("segmentation") or ()]
    owners = np.fromiter((k for k, _ in found), np.intp, len(found))
    lengths = np.fromiter((len(p) for _, p in found), np.intp, len(found))
    valid = (lengths % 2 == 0) & (lengths >= 6)
    kept = [p for (_, p), good in zip(found, valid, strict=True) if good]
    if not kept:
        return valid, owners, np.zeros((0, 4))
    try:
        flat = np.fromiter(chain.from_iterable(kept), np.float64, int(lengths[valid].sum()))
    except (TypeError, ValueError) as error:
        where = next(rows[k]["id"] for k, p in found if not all(isinstance(v, (int, float)) for v in p))
        raise UserError(
            f"a polygon of annotation {where} in {path} holds something that is no number; correct the file"
        ) from error
    starts = np.concatenate([[0], np.cumsum(lengths[valid])[:-1]]).astype(np.intp)
    if not np.isfinite(flat).all():
        at = np.searchsorted(starts, np.flatnonzero(~np.isfinite(flat))[0], side="right") - 1
        where = rows[owners[valid][at]]["id"]
        raise UserError(
            f"a polygon of annotation {where} in {path} holds a number that is not finite; correct it"
        )
    x, y, first = flat[0::2], flat[1::2], starts // 2
    edges = [np.minimum.reduceat(x, first), np.minimum.reduceat(y, first)]
    edges += [np.maximum.reduceat(x, first), np.maximum.reduceat(y, first)]
    return valid, owners, np.stack(edges, axis=1)


def _check_inside(
    path: Path,
    rows: Sequence[Row],
    owners: NDArray[np.intp],
    edges: NDArray[np.float64],
    sizes: dict[Any, tuple[int, int]],
) -> int:
    """Refuse polygons outside their image; count those that cross its border."""
    size = np.array([sizes[row["image_id"]] for row in rows], np.float64).reshape(-1, 2)[owners]
    outside = ((edges[:, :2] > size + _SLACK) | (edges[:, 2:] < -_SLACK)).any(axis=1)
    if outside.any():
        row = rows[owners[np.flatnonzero(outside)[0]]]
        raise UserError(
            f"a polygon of annotation {row['id']} in {path} lies outside its image of "
            "{}x{}; coordinates are pixels of the image as listed".format(*sizes[row["image_id"]])
        )
    crossing = ((edges[:, :2] < -_SLACK) | (edges[:, 2:] > size + _SLACK)).any(axis=1)
    return len(np.unique(owners[crossing]))


def _check_run_lengths(path: Path, row: Row, sizes: dict[Any, tuple[int, int]]) -> None:
    code, (width, height) = row["segmentation"], sizes[row["image_id"]]
    counts = code.get("counts")
    fits = code.get("size") == [height, width] and isinstance(counts, (str, list))
    if not fits or (isinstance(counts, list) and sum(counts) != width * height):
        raise UserError(
            f"the run lengths of annotation {row['id']} in {path} do not fit its image of {width}x{height}; "
            "they need `counts` and `size` as [height, width]"
        )
