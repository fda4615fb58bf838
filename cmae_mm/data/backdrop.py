"""What lies behind the objects: plain textures, or landscapes of sky, wall, ground, water and grass."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from cmae_mm.data import textures
from cmae_mm.data.taxonomy import STUFF_ADE20K
from cmae_mm.data.textures import Field, Rng


def plain(rng: Rng, h: int, w: int) -> Field:
    """One texture, or two that meet at a wavy line.

    Returns:
        (h, w, 3) RGB in [0, 1].
    """
    sheets = []
    for _ in range(2 if rng.random() < 0.5 else 1):
        first, second = textures.colour(rng), textures.colour(rng)
        second = first + np.float32(rng.uniform(0.15, 0.8)) * (second - first)
        field = textures.any_texture(rng, h, w, float(np.exp(rng.uniform(np.log(8), np.log(60)))))
        sheets.append(textures.mix(first, second, field))
    if len(sheets) == 1:
        return sheets[0]
    angle = rng.uniform(0, np.pi)
    y = np.linspace(-1, 1, h, dtype=np.float32)[:, None] * np.float32(np.sin(angle))
    x = np.linspace(-1, 1, w, dtype=np.float32)[None, :] * np.float32(np.cos(angle))
    bend = textures.noise(rng, h, w, 60.0) - 0.5
    side = y + x + bend * np.float32(0.8) > rng.uniform(-0.5, 0.5)
    return np.where(side[..., None], sheets[0], sheets[1])


def _sky(rng: Rng, h: int, w: int) -> Field:
    """Smooth, lighter towards the horizon, often with clouds."""
    hue = rng.normal(0.58, 0.06) if rng.random() < 0.6 else None
    top, low = textures.colour(rng, (0.5, 0.9), hue), textures.colour(rng, (0.75, 1.0), hue)
    ramp = np.broadcast_to(np.linspace(0, 1.5, h, dtype=np.float32)[:, None], (h, w))
    image = textures.mix(top, low, np.clip(ramp, 0, 1))
    if rng.random() < 0.7:
        cover = np.clip(
            (textures.fractal(rng, h, w, rng.uniform(30, 70)) - rng.uniform(0.45, 0.65)) * 3, 0, 0.8
        )
        image = image + (textures.colour(rng, (0.85, 1.0)) - image) * cover[..., None]
    return image


def _wall(rng: Rng, h: int, w: int) -> Field:
    """Bricks in shifted rows with mortar between them, each of its own shade."""
    tall = rng.uniform(10, 20)
    wide = tall * rng.uniform(1.7, 2.6)
    row = np.arange(h) / tall + rng.random()
    shift = np.where(np.floor(row) % 2 == 0, 0.0, 0.5)
    column = np.arange(w)[None, :] / wide + shift[:, None] + rng.random()
    shade = rng.random((int(row[-1]) + 2, int(column.max()) + 2), dtype=np.float32)
    field = shade[np.floor(row).astype(int)[:, None], np.floor(column).astype(int)]
    base = textures.colour(rng, (0.3, 0.8))
    image = textures.mix(base * 0.8, np.minimum(base * 1.25, 1), field)
    joint = (row % 1.0 < 2.4 / tall)[:, None] | (column % 1.0 < 2.4 / wide)
    image[joint] = textures.colour_away_from(rng, float(base @ textures.LUMA), 0.2)
    return image


def _ground(rng: Rng, h: int, w: int) -> Field:
    """Grain, specks and large soft patches."""
    base = textures.colour(rng, (0.3, 0.8), rng.normal(0.09, 0.05) if rng.random() < 0.5 else None)
    grain = 0.5 * textures.noise(rng, h, w, 2.5) + 0.5 * textures.fractal(rng, h, w, 40)
    image = textures.mix(base * 0.6, np.minimum(base * 1.3, 1), grain)
    stones = textures.noise(rng, h, w, 5.0) > 0.87
    image[stones] = image[stones] * np.float32(rng.choice([0.5, 1.4]))
    return image


def _water(rng: Rng, h: int, w: int) -> Field:
    """Long horizontal ripples with bright crests."""
    base = textures.colour(rng, (0.3, 0.7), rng.normal(0.55, 0.07) if rng.random() < 0.5 else None)
    tall = rng.uniform(4, 8)
    ripple = textures.noise(rng, h, w, tall, tall * rng.uniform(6, 10))
    image = textures.mix(base * 0.7, np.minimum(base * 1.3, 1), ripple)
    crest = np.clip((textures.noise(rng, h, w, tall, tall * 5) - 0.72) * 4, 0, 1)
    return image + (np.float32(0.95) - image) * crest[..., None]


def _grass(rng: Rng, h: int, w: int) -> Field:
    """Thin upright blades, short in the distance."""
    base = textures.colour(rng, (0.3, 0.75), rng.normal(0.3, 0.06) if rng.random() < 0.5 else None)
    blades = textures.noise(rng, h, w, rng.uniform(10, 18), 2.2)
    patches = textures.fractal(rng, h, w, 50, 2)
    return textures.mix(base * 0.35, np.minimum(base * 1.5, 1), 0.75 * blades + 0.25 * patches)


_PAINTERS = (_sky, _wall, _ground, _water, _grass)
_SKY, _WALL, _GROUND, _WATER, _GRASS = range(len(STUFF_ADE20K))


def _curve(rng: Rng, w: int, height: float, swing: float) -> Field:
    """A wavy horizon: its row for each column, (w,)."""
    return (height + swing * (textures.noise(rng, 1, w, 1, w / 2.5)[0] * 2 - 1)).astype(np.float32)


def _layout(rng: Rng, h: int, w: int) -> NDArray[np.int32]:
    """Which stuff is where: (h, w) of indices into `STUFF_ADE20K`."""
    y = np.arange(h, dtype=np.float32)[:, None]
    top = _SKY if rng.random() < 0.75 else _WALL
    lower = rng.permutation([_GROUND, _WATER, _GRASS])
    swing = 0.06 * h if top == _SKY else 0.0
    horizon = _curve(rng, w, rng.uniform(0.25, 0.6) * h, swing)
    plan = np.where(y < horizon, top, lower[0]).astype(np.int32)
    if rng.random() < 0.65:
        slant = np.linspace(-1, 1, w, dtype=np.float32) * np.float32(rng.uniform(-0.35, 0.35) * h)
        second = _curve(rng, w, rng.uniform(0.5, 0.85) * h, 0.1 * h) + slant
        plan[(y > second) & (y >= horizon)] = lower[1]
    if top == _SKY and rng.random() < 0.4:
        x0, wide = rng.uniform(-0.1, 0.8) * w, rng.uniform(0.2, 0.6) * w
        y0, y1 = rng.uniform(0.1, 0.4) * h, float(horizon.mean()) + 0.08 * h
        corners = [(x0, y0 + rng.uniform(0, 0.1) * h), (x0 + wide, y0), (x0 + wide, y1), (x0, y1)]
        cv2.fillPoly(plan, [np.array(corners, dtype=np.int32)], _WALL)
    return plan


def landscape(rng: Rng, h: int, w: int) -> tuple[Field, NDArray[np.int32]]:
    """Stuff below and above a horizon.

    Args:
        rng: Source of randomness.
        h: Canvas height.
        w: Canvas width.

    Returns:
        (h, w, 3) RGB in about [0, 1], and (h, w) indices into `STUFF_ADE20K`.
    """
    plan = _layout(rng, h, w)
    image = np.empty((h, w, 3), np.float32)
    for kind in np.flatnonzero(np.bincount(plan.ravel(), minlength=len(_PAINTERS))):
        here = plan == kind
        image[here] = _PAINTERS[kind](rng, h, w)[here]
    return image, plan


def anything(rng: Rng, h: int, w: int) -> Field:
    """A plain backdrop or a landscape, for the sets that do not label it.

    Returns:
        (h, w, 3) RGB in about [0, 1].
    """
    return landscape(rng, h, w)[0] if rng.random() < 0.4 else plain(rng, h, w)
