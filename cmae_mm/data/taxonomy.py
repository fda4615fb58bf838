"""Names, category ids and colours of the embedded data. Imports nothing heavy.

The same kinds of object appear in all three sets, so that what is learnt on one carries to the others.
"""

from __future__ import annotations

RGB = tuple[int, int, int]

CLASSES_IMAGENET: tuple[str, ...] = (
    "arrow",
    "car",
    "cup",
    "fish",
    "house",
    "key",
    "leaf",
    "ring",
    "star",
    "tree",
)
"""Classes of the image folder; sorted, so the index equals the one a folder listing gives."""

CLASSES_COCO: tuple[str, ...] = ("car", "cup", "fish", "house", "key", "star")
"""Classes of the detection set, in the order of `COCO_CATEGORY_IDS`."""

COCO_CATEGORY_IDS: tuple[int, ...] = (3, 7, 18, 44, 62, 90)
"""Category ids in the JSON file. Sparse, as COCO's are, so that a mix-up with indices shows."""

STUFF_ADE20K: tuple[str, ...] = ("sky", "wall", "ground", "water", "grass")
"""Background kinds of the segmentation set."""

THINGS_ADE20K: tuple[str, ...] = ("house", "tree", "car", "fish", "cup")
"""Objects of the segmentation set."""

CLASSES_ADE20K: tuple[str, ...] = STUFF_ADE20K + THINGS_ADE20K
"""Class k (from 0) has the value k + 1 in a label map; 0 means void."""

PALETTE_IMAGENET: list[RGB] = [
    (228, 26, 28),
    (55, 126, 184),
    (77, 175, 74),
    (152, 78, 163),
    (255, 127, 0),
    (214, 194, 20),
    (166, 86, 40),
    (247, 129, 191),
    (120, 120, 120),
    (26, 188, 156),
]
"""One colour for each class of `CLASSES_IMAGENET`, for plots."""

PALETTE_COCO: list[RGB] = [
    (55, 126, 184),
    (77, 175, 74),
    (152, 78, 163),
    (255, 127, 0),
    (214, 194, 20),
    (228, 26, 28),
]
"""One colour for each class of `CLASSES_COCO`, for overlays."""

PALETTE_ADE20K: list[RGB] = [
    (120, 190, 235),
    (160, 100, 90),
    (150, 130, 80),
    (30, 90, 200),
    (80, 200, 60),
    (255, 127, 0),
    (10, 110, 60),
    (230, 40, 60),
    (170, 70, 200),
    (250, 220, 40),
]
"""One colour for each class of `CLASSES_ADE20K`, for overlays."""
