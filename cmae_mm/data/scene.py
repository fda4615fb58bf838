"""One rendered scene for each of the three sets, with everything that can be annotated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from cmae_mm.data import backdrop, render
from cmae_mm.data.render import Light, Mask, Sprite, stamp
from cmae_mm.data.taxonomy import CLASSES_ADE20K, CLASSES_COCO, STUFF_ADE20K, THINGS_ADE20K
from cmae_mm.data.textures import Field, Rng

LEAST_AREA = 20.0
"""Smallest visible area of an annotated object, in pixels of the picture."""

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Instance:
    """An annotated object, or a crowd of them.

    Attributes:
        name: Its class.
        mask: (h, w), what is visible of it.
        crowd: Whether it is a crowd region.
    """

    name: str
    mask: Mask
    crowd: bool = False


def _scatter(
    rng: Rng,
    size: tuple[int, int],
    count: int,
    radius: tuple[float, float],
    names: Sequence[str] | None = None,
) -> list[Sprite]:
    """Objects at random places; radii log-uniform within `radius` (canvas pixels); distractors by default."""
    found = []
    for _ in range(count):
        name = None if names is None else str(rng.choice(list(names)))
        r = float(np.exp(rng.uniform(*np.log(radius))))
        place = (float(rng.uniform(0, size[1])), float(rng.uniform(0, size[0])), r)
        found.append(stamp(rng, name, place, size))
    return [s for s in found if s is not None]


def _paint_all(rng: Rng, canvas: Field, sprites: Sequence[Sprite], light: Light) -> Image:
    for sprite in sprites:
        render.paint(rng, canvas, sprite, light)
    return render.finish(rng, canvas, light)


def imagenet_scene(rng: Rng, name: str) -> Image:
    """One object of a class amid clutter, at times partly covered.

    Args:
        rng: Source of randomness.
        name: One of `CLASSES_IMAGENET`.

    Returns:
        (h, w, 3) uint8 RGB.
    """
    h, w = (2 * int(n) for n in rng.integers(88, 121, 2))
    size, short = (h, w), min(h, w)
    light = Light.draw(rng)
    radius = short * rng.uniform(0.32, 0.48)
    wander = np.maximum(np.array([w, h]) / 2 - radius * 0.95, 0.03 * short)
    x, y = np.array([w, h]) / 2 + rng.uniform(-1, 1, 2) * wander
    main = stamp(rng, name, (float(x), float(y), radius), size)
    assert main is not None  # its centre is inside the picture
    behind = _scatter(rng, size, int(rng.integers(0, 4)), (0.06 * short, 0.2 * short))
    front = _scatter(rng, size, int(rng.integers(0, 2)), (0.05 * short, 0.16 * short))
    full = np.count_nonzero(main.material)
    seen = np.bincount(render.stack_ids([main, *front], size).ravel(), minlength=2)[1]
    if seen < 0.65 * full:
        front = []
    return _paint_all(rng, backdrop.anything(rng, h, w), [*behind, main, *front], light)


def _crowd(rng: Rng, size: tuple[int, int]) -> list[Sprite]:
    """Many tiny objects of one class, close together."""
    name, short = str(rng.choice(CLASSES_COCO)), min(size)
    centre = np.array([size[1], size[0]]) * rng.uniform(0.25, 0.75, 2)
    found = []
    for _ in range(int(rng.integers(14, 30))):
        x, y = centre + rng.normal(0, 1, 2) * short * np.array([0.16, 0.08])
        place = (float(x), float(y), float(short * rng.uniform(0.03, 0.05)))
        found.append(stamp(rng, name, place, size, group=0))
    return [s for s in found if s is not None]


def coco_scene(rng: Rng, empty: bool = False, crowd: bool = False) -> tuple[Image, list[Instance]]:
    """One to five objects of very different sizes that may cover each other.

    Args:
        rng: Source of randomness.
        empty: Whether to leave out all objects.
        crowd: Whether to add a crowd region.

    Returns:
        (h, w, 3) uint8 RGB, and what is in it, farthest first.
    """
    h, w = (2 * int(n) for n in rng.integers(128, 161, 2))
    size, light = (h, w), Light.draw(rng)
    sprites = _scatter(rng, size, int(rng.integers(0, 4)), (12, 0.25 * min(h, w)))
    if not empty:
        things = _scatter(rng, size, int(rng.integers(1, 5)), (30, 0.5 * min(h, w)), CLASSES_COCO)
        if rng.random() < 0.2:  # chance alone would make too few of COCO's large objects
            r = min(h, w) * rng.uniform(0.5, 0.66)
            place = (float(w * rng.uniform(0.4, 0.6)), float(h * rng.uniform(0.4, 0.6)), float(r))
            large = stamp(rng, str(rng.choice(["cup", "house", "star"])), place, size)
            things += [] if large is None else [large]
        # Far to near is large to small, more or less: a large near object would hide the rest.
        order = np.argsort([-s.radius * rng.uniform(0.4, 1.6) for s in things])
        sprites += [things[k] for k in order]
        sprites += _scatter(rng, size, int(rng.integers(0, 2)), (10, 0.12 * min(h, w)))
    if crowd and not empty:
        sprites += _crowd(rng, size)
    area = LEAST_AREA * render.SUPERSAMPLING**2
    kept, ids = render.drop_hidden(sprites, size, area, 0.25)
    image = _paint_all(rng, backdrop.anything(rng, h, w), kept, light)
    return image, _instances(kept, render.halve_ids(ids))


def _instances(sprites: Sequence[Sprite], ids: render.Ids) -> list[Instance]:
    """The annotated objects; the members of a crowd together make one region."""
    found = [
        Instance(s.name, ids == k)
        for k, s in enumerate(sprites, start=1)
        if s.name is not None and s.group is None
    ]
    crowd = [k for k, s in enumerate(sprites, start=1) if s.group is not None]
    if crowd:
        # Crowd regions are coarse: gaps between the members are closed, other objects are left out.
        mask = np.isin(ids, crowd).astype(np.uint8)
        closed = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, np.ones((7, 7), np.uint8))
        region = (closed > 0) & ((ids == 0) | (mask > 0))
        found.append(Instance(str(sprites[crowd[0] - 1].name), region, crowd=True))
    return found


def ade20k_scene(rng: Rng) -> tuple[Image, Image]:
    """A landscape with a few objects standing in it.

    Args:
        rng: Source of randomness.

    Returns:
        (h, w, 3) uint8 RGB and (h, w) uint8 labels: 0 is void, k + 1 is class k of `CLASSES_ADE20K`.
    """
    size = h, w = 2 * int(rng.integers(96, 129)), 256
    light = Light.draw(rng)
    canvas, plan = backdrop.landscape(rng, h, w)
    sprites = _scatter(rng, size, int(rng.integers(0, 3)), (8, 22))
    for y in np.sort(rng.uniform(0.3, 0.95, int(rng.integers(1, 6)))):
        # Lower in the picture is nearer, and larger.
        radius = h * (0.06 + 0.26 * y) * rng.uniform(0.6, 1.4)
        place = (float(rng.uniform(0, w)), float(y * h - 0.5 * radius), float(radius))
        sprite = stamp(rng, str(rng.choice(THINGS_ADE20K)), place, size)
        sprites += [] if sprite is None else [sprite]
    kept, ids = render.drop_hidden(sprites, size, LEAST_AREA * render.SUPERSAMPLING**2, 0.25)
    image = _paint_all(rng, canvas, kept, light)
    return image, _labels(rng, kept, render.halve_ids(ids), render.halve_ids(plan))


def _labels(rng: Rng, sprites: Sequence[Sprite], ids: render.Ids, plan: render.Ids) -> Image:
    """The label map; distractors and the borders of some objects are void."""
    values = [CLASSES_ADE20K.index(s.name) + 1 if s.name is not None else 0 for s in sprites]
    labels = np.where(ids == 0, plan + 1, np.array([0, *values], np.int32)[ids]).astype(np.uint8)
    assert plan.max() < len(STUFF_ADE20K)
    for k in range(1, len(sprites) + 1):
        if values[k - 1] and rng.random() < 0.4:
            mask = (ids == k).astype(np.uint8)
            labels[cv2.morphologyEx(mask, cv2.MORPH_GRADIENT, np.ones((2, 2), np.uint8)) > 0] = 0
    return labels
