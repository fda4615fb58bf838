"""Objects drawn over a picture: filled outlines, boxes and tags that keep out of each other's way."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Picture = NDArray[np.uint8]
RGB = tuple[int, int, int]
Box = tuple[float, float, float, float]

_FILL = 0.42  # how much of an object's colour covers its pixels
_CROWD: RGB = (120, 120, 120)
_GOLDEN = 0.61803398875  # multiples of it keep apart on the colour circle


@dataclass(frozen=True)
class Drawn:
    """One object to draw.

    Attributes:
        name: Its class.
        color: Of fill, box and tag.
        box: x0, y0, x1, y1 in pixels of the image.
        mask: (H, W) boolean, or None where there is no outline.
        score: Of a detection in [0, 1]; None for ground truth.
        crowd: Whether it is a crowd region: drawn grey.
    """

    name: str
    color: RGB
    box: Box
    mask: NDArray[np.bool_] | None = None
    score: float | None = None
    crowd: bool = False


def class_colors(count: int, known: Sequence[RGB] = ()) -> list[RGB]:
    """Bright colours that differ between neighbours.

    Args:
        count: Number of classes.
        known: Used as they are where they suffice.

    Returns:
        One colour for each class.
    """
    if len(known) == count:
        return [(int(r), int(g), int(b)) for r, g, b in known]
    colors = []
    for k in range(count):
        light, full = (0.55, 0.90) if k % 2 else (0.45, 0.75)
        r, g, b = colorsys.hls_to_rgb((0.58 + k * _GOLDEN) % 1, light, full)
        colors.append((round(255 * r), round(255 * g), round(255 * b)))
    return colors


def draw(image: Picture, objects: Sequence[Drawn], width: int) -> Picture:
    """Draw objects over an image that is brought to a width.

    Outlines are smoothed where the image is enlarged. Small objects lie on top of large ones, and tags look
    for a free place at their box.

    Args:
        image: (H, W, 3) RGB.
        objects: What to draw.
        width: Of the result in pixels.

    Returns:
        (round(H * width / W), width, 3) RGB.
    """
    scale = width / image.shape[1]
    size = (width, max(1, round(image.shape[0] * scale)))
    mode = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC
    canvas = np.array(Image.fromarray(image).resize(size, mode))
    ordered = sorted(objects, key=lambda o: -(o.box[2] - o.box[0]) * (o.box[3] - o.box[1]))
    for one in ordered:
        _cover(canvas, one)
    picture = Image.fromarray(canvas)
    pen = ImageDraw.Draw(picture)
    taken: list[Box] = []
    for one in ordered:
        x0, y0, x1, y1 = (scale * v for v in one.box)
        x1, y1 = min(x1, size[0] - 1), min(y1, size[1] - 1)
        pen.rectangle(
            (x0, y0, max(x0, x1), max(y0, y1)), outline=_shade(one), width=2 if not one.crowd else 1
        )
    for one in reversed(ordered):
        _tag(pen, one, scale, size, taken)
    return np.asarray(picture)


def _shade(one: Drawn) -> RGB:
    return _CROWD if one.crowd else one.color


def _cover(canvas: Picture, one: Drawn) -> None:
    """Fill an object's pixels and draw its border, in place."""
    if one.mask is None or not one.mask.any():
        return
    soft = cv2.resize(one.mask.astype(np.float32), canvas.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    inside = soft > 0.5
    color = np.array(_shade(one), np.float32)
    canvas[inside] = (canvas[inside] * (1 - _FILL) + color * _FILL).astype(np.uint8)
    contours, _ = cv2.findContours(inside.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(canvas, contours, -1, (255, 255, 255), 2, cv2.LINE_AA)
    cv2.drawContours(canvas, contours, -1, _shade(one), 1, cv2.LINE_AA)


@lru_cache(maxsize=8)
def font(size: int, bold: bool = False) -> Any:
    """A legible font that comes with matplotlib.

    Args:
        size: In pixels.
        bold: Heavier.

    Returns:
        A font of Pillow.
    """
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return ImageFont.truetype(str(folder / ("DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf")), size)


def _tag(pen: Any, one: Drawn, scale: float, size: tuple[int, int], taken: list[Box]) -> None:
    """Write class and score at the first free corner of the box."""
    text = "crowd of " + one.name if one.crowd else one.name
    text += "" if one.score is None else f" {100 * one.score:.0f}"
    letters = font(12)
    x0, y0, x1, y1 = (scale * v for v in one.box)
    w, h = pen.textlength(text, font=letters) + 6, 16
    places = [(x0, y0 - h), (x1 - w, y0 - h), (x0, y1), (x1 - w, y1), (x0, y0), (x0, (y0 + y1 - h) / 2)]
    tags = []
    for x, y in places:
        left, top = min(max(x, 0), max(size[0] - w, 0)), min(max(y, 0), max(size[1] - h, 0))
        tags.append((left, top, left + w, top + h))
    best = min(tags, key=lambda tag: sum(_overlap(tag, other) for other in taken))
    taken.append(best)
    color = _shade(one)
    bright = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2] > 140
    pen.rounded_rectangle(best, radius=3, fill=color)
    pen.text((best[0] + 3, best[1] + 1), text, font=letters, fill=(0, 0, 0) if bright else (255, 255, 255))


def _overlap(a: Box, b: Box) -> float:
    """Area that two boxes share."""
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
