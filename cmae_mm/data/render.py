"""Painting: outlines become pixels, with light and shadow, on a canvas of twice the final size.

The canvas is drawn without antialiasing, so every canvas pixel belongs to exactly one object; halving
its size afterwards antialiases the picture, and `halve_ids` gives the exact visible mask of each object.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from cmae_mm.data import shapes, textures
from cmae_mm.data.coats import Coat, draw_coat
from cmae_mm.data.textures import LUMA, Field, Rng

SUPERSAMPLING = 2
_SHIFT = 4  # bits of sub-pixel position in cv2.fillPoly

Mask = NDArray[np.bool_]
Ids = NDArray[np.int32]


@dataclass(frozen=True)
class Light:
    """Where the light of a scene comes from and how strong its effects are.

    Attributes:
        x: Direction towards the light, horizontally; (x, y) has length 1.
        y: Direction towards the light, vertically, down is positive.
        relief: How rounded objects look.
        shadow: Darkness of the shadows they cast, 0 for none.
    """

    x: float
    y: float
    relief: float
    shadow: float

    @classmethod
    def draw(cls, rng: Rng) -> Light:
        """A random light, from above more often than from below."""
        angle = rng.normal(-np.pi / 2, 0.9)
        shadow = rng.uniform(0.2, 0.55) if rng.random() < 0.6 else 0.0
        return cls(float(np.cos(angle)), float(np.sin(angle)), float(rng.uniform(0.1, 0.6)), float(shadow))


@dataclass(frozen=True)
class Sprite:
    """An object that has its place on the canvas but no paint yet.

    Attributes:
        name: Class, or None for a distractor.
        x: Left edge of `material` on the canvas.
        y: Top edge.
        material: (h, w) uint8, the material of each pixel, 0 outside the object.
        radius: Half its nominal size, in canvas pixels.
        group: Number of the crowd it belongs to, or None.
    """

    name: str | None
    x: int
    y: int
    material: NDArray[np.uint8]
    radius: float
    group: int | None = None

    @property
    def window(self) -> tuple[slice, slice]:
        """Rows and columns of the canvas that `material` covers."""
        h, w = self.material.shape
        return slice(self.y, self.y + h), slice(self.x, self.x + w)


def stamp(
    rng: Rng,
    name: str | None,
    place: tuple[float, float, float],
    size: tuple[int, int],
    group: int | None = None,
) -> Sprite | None:
    """Draw a new object's outline.

    Args:
        rng: Source of randomness.
        name: Class, or None for a distractor.
        place: Centre x, centre y and radius, in canvas pixels.
        size: Canvas height and width.
        group: Number of the crowd it belongs to.

    Returns:
        The object, cut at the border; None when it lies outside.
    """
    shape = shapes.SHAPES[name](rng) if name is not None else shapes.distractor(rng)
    parts = shapes.moved(shape, shapes.pose(rng, name, *place))
    corners = np.concatenate([p.points for p in parts if p.extends])
    margin = int(place[2] * 0.3) + 3  # room for the shadow and for smoothing
    x0, y0 = np.maximum(np.floor(corners.min(0)).astype(int) - margin, 0)
    x1, y1 = np.minimum(np.ceil(corners.max(0)).astype(int) + margin, [size[1], size[0]])
    if x1 - x0 < 2 or y1 - y0 < 2:
        return None
    material = np.zeros((y1 - y0, x1 - x0), np.uint8)
    layer = np.empty_like(material)
    for part in parts:
        points = np.round((part.points - [x0, y0]) * (1 << _SHIFT)).astype(np.int32)
        if part.extends:
            cv2.fillPoly(material, [points], part.material, lineType=cv2.LINE_8, shift=_SHIFT)
        else:
            layer[:] = 0
            cv2.fillPoly(layer, [points], 1, lineType=cv2.LINE_8, shift=_SHIFT)
            material[(layer > 0) & (material > 0)] = part.material
    if not material.any():
        return None
    return Sprite(name, int(x0), int(y0), material, place[2], group)


def stack_ids(sprites: Sequence[Sprite], size: tuple[int, int]) -> Ids:
    """Which object is in front at each pixel.

    Args:
        sprites: Objects, farthest first.
        size: Canvas height and width.

    Returns:
        (h, w): 0 for background, k + 1 for object k.
    """
    ids = np.zeros(size, np.int32)
    for k, sprite in enumerate(sprites, start=1):
        ids[sprite.window][sprite.material > 0] = k
    return ids


def drop_hidden(
    sprites: Sequence[Sprite], size: tuple[int, int], least_area: float, least_share: float
) -> tuple[list[Sprite], Ids]:
    """Take away the objects too little of which can be seen, so that none is left without a label.

    Distractors and members of crowds stay.

    Args:
        sprites: Objects, farthest first.
        size: Canvas height and width.
        least_area: Smallest visible area, in canvas pixels.
        least_share: Smallest visible share of an object's area inside the canvas.

    Returns:
        The objects that stay, and their ids as `stack_ids` gives them.
    """
    kept = list(sprites)
    while True:
        ids = stack_ids(kept, size)
        seen = np.bincount(ids.ravel(), minlength=len(kept) + 1)[1:]
        full = [max(int(np.count_nonzero(s.material)), 1) for s in kept]
        stay = [
            s
            for s, n, m in zip(kept, seen, full, strict=True)
            if s.name is None or s.group is not None or (n >= least_area and n >= least_share * m)
        ]
        if len(stay) == len(kept):
            return kept, ids
        kept = stay


def halve_ids(ids: Ids) -> Ids:
    """Ids at the final size: the majority of each 2x2 block; the nearest object wins a tie.

    Args:
        ids: (2h, 2w) ids, larger is nearer.

    Returns:
        (h, w).
    """
    h, w = ids.shape[0] // 2, ids.shape[1] // 2
    blocks = np.sort(ids.reshape(h, 2, w, 2).transpose(0, 2, 1, 3).reshape(h, w, 4), axis=2)
    a, b, c, d = (blocks[..., k] for k in range(4))
    return np.where((c == d) | (b == c), c, np.where(a == b, a, d))


def _paints(rng: Rng, behind: float, coat: Coat) -> tuple[Field, Field]:
    """Two colours for each material, between which its texture changes: (6, 3) each."""
    body = textures.colour_away_from(rng, behind, 0.18, coat.hue)
    second = textures.colour_away_from(rng, float(body @ LUMA), 0.08)
    detail = textures.colour_away_from(rng, float(body @ LUMA), 0.2)
    dark, light = textures.colour(rng, (0.03, 0.2)), textures.colour(rng, (0.8, 1.0))
    first = np.stack([body, body, second, detail, dark, light * 0.5 + 0.4]).astype(np.float32)
    other = np.stack([textures.colour(rng) for _ in range(3)] + [detail, dark, light]).astype(np.float32)
    return first, first + np.float32(coat.strength) * (other - first)


def paint(rng: Rng, canvas: Field, sprite: Sprite, light: Light) -> None:
    """Paint an object on the canvas, in place, with its shadow.

    Args:
        rng: Source of randomness for colours and texture.
        canvas: (h, w, 3) RGB in about [0, 1].
        sprite: The object.
        light: The scene's light.
    """
    window, solid = canvas[sprite.window], sprite.material > 0
    h, w = solid.shape
    soft_size = max(int(sprite.radius * 0.22) | 1, 3)
    soft = cv2.blur(cv2.blur(solid.astype(np.float32), (soft_size,) * 2), (soft_size,) * 2)
    if light.shadow:
        reach = sprite.radius * 0.14
        move = np.array([[1, 0, -light.x * reach], [0, 1, -light.y * reach]], np.float64)
        window *= 1 - np.float32(light.shadow) * cv2.warpAffine(soft, move, (w, h))[..., None]
    behind = float(cv2.mean(window)[:3] @ LUMA.astype(float))
    coat = draw_coat(rng, sprite.name)
    first, other = _paints(rng, behind, coat)
    field = coat.texture(rng, h, w, max(sprite.radius * coat.period, 4.0))[solid]
    material = sprite.material[solid]
    colours = first[material] + (other - first)[material] * field[:, None]
    slope = cv2.Sobel(soft, cv2.CV_32F, 1, 0) * light.x + cv2.Sobel(soft, cv2.CV_32F, 0, 1) * light.y
    shade = 1 - np.float32(light.relief * soft_size / 8) * slope
    if rng.random() < 0.3:
        rim = cv2.erode(solid.astype(np.uint8), np.ones((3, 3), np.uint8), borderValue=1)
        shade[rim == 0] *= 0.45
    window[solid] = colours * np.clip(shade[solid], 0.35, 1.6)[:, None]


def finish(rng: Rng, canvas: Field, light: Light) -> NDArray[np.uint8]:
    """Light, lens and camera: from the canvas to the picture.

    Args:
        rng: Source of randomness.
        canvas: (2h, 2w, 3) RGB in about [0, 1].
        light: The scene's light.

    Returns:
        (h, w, 3) uint8 RGB.
    """
    h, w = canvas.shape[0] // SUPERSAMPLING, canvas.shape[1] // SUPERSAMPLING
    image = cv2.resize(canvas, (w, h), interpolation=cv2.INTER_AREA)
    y = np.linspace(-1, 1, h, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, w, dtype=np.float32)[None, :]
    glow = 1 + np.float32(rng.uniform(0, 0.3)) * (x * np.float32(light.x) + y * np.float32(light.y))
    glow *= 1 - np.float32(rng.uniform(0, 0.25)) * (x * x + y * y) / 2
    cast = rng.uniform(0.85, 1.15, 3) * rng.uniform(0.75, 1.2)
    image = image * glow[..., None] * cast.astype(np.float32)
    if rng.random() < 0.3:
        image = cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.4, 0.9)))
    if rng.random() < 0.7:
        image = image + rng.standard_normal(image.shape, dtype=np.float32) * np.float32(
            rng.uniform(0.01, 0.035)
        )
    return np.clip(image * 255 + 0.5, 0, 255).astype(np.uint8)
