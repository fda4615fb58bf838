"""Procedural textures and colours for the rendered scenes.

A texture is a scalar field of float32 in about [0, 1]; two colours are mixed by it. All lengths are
pixels of the canvas it is made for.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]
Rng = np.random.Generator

LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)


def noise(rng: Rng, h: int, w: int, cell_y: float, cell_x: float | None = None) -> Field:
    """Smooth value noise.

    Args:
        rng: Source of randomness.
        h: Height of the field.
        w: Width of the field.
        cell_y: Size of one bump, vertically.
        cell_x: Size of one bump, horizontally; `cell_y` when not given.

    Returns:
        (h, w) in [0, 1].
    """
    cell_x = cell_y if cell_x is None else cell_x
    coarse = rng.random((int(h / cell_y) + 3, int(w / cell_x) + 3), dtype=np.float32)
    # The window is cut out of a slightly larger sheet so that bumps do not line up with the border.
    sheet = cv2.resize(
        coarse,
        (max(w, int(coarse.shape[1] * cell_x)), max(h, int(coarse.shape[0] * cell_y))),
        interpolation=cv2.INTER_LINEAR,
    )
    y = int(rng.integers(0, sheet.shape[0] - h + 1))
    x = int(rng.integers(0, sheet.shape[1] - w + 1))
    return sheet[y : y + h, x : x + w]


def fractal(rng: Rng, h: int, w: int, cell: float, octaves: int = 3) -> Field:
    """Noise summed over `octaves` scales, each half as large and 0.6 times as strong.

    Returns:
        (h, w), stretched to [0, 1].
    """
    total = np.zeros((h, w), np.float32)
    for octave in range(octaves):
        total += 0.6**octave * noise(rng, h, w, max(cell / 2**octave, 2.0))
    low, high = float(total.min()), float(total.max())
    return (total - low) / max(high - low, 1e-6)


def _phase(rng: Rng, h: int, w: int, period: float, angle: float) -> Field:
    """A plane wave's phase, in turns, bent a little by noise."""
    y = np.arange(h, dtype=np.float32)[:, None] * np.float32(np.sin(angle) / period)
    x = np.arange(w, dtype=np.float32)[None, :] * np.float32(np.cos(angle) / period)
    phase = y + x + np.float32(rng.random())
    if rng.random() < 0.5:
        phase = phase + np.float32(rng.uniform(0.2, 0.8)) * noise(rng, h, w, 4 * period)
    return phase


def _wave(phase: Field, sharp: float) -> Field:
    """Turn a phase into bands: a triangle wave, made steeper by `sharp`."""
    triangle = np.abs((phase % 1.0) * 2.0 - 1.0)
    return np.clip((triangle - 0.5) * np.float32(sharp) + 0.5, 0.0, 1.0)


def stripes(rng: Rng, h: int, w: int, period: float) -> Field:
    """Bands at a random angle."""
    return _wave(_phase(rng, h, w, period, rng.uniform(0, np.pi)), rng.uniform(1, 6))


def checks(rng: Rng, h: int, w: int, period: float) -> Field:
    """A chequerboard at a random angle."""
    angle = rng.uniform(0, np.pi)
    one = _wave(_phase(rng, h, w, period, angle), 6.0)
    two = _wave(_phase(rng, h, w, period, angle + np.pi / 2), 6.0)
    return np.abs(one - two)


def dots(rng: Rng, h: int, w: int, period: float) -> Field:
    """Round dots on a turned lattice."""
    angle = rng.uniform(0, np.pi)
    one = np.abs(_phase(rng, h, w, period, angle) % 1.0 - 0.5)
    two = np.abs(_phase(rng, h, w, period, angle + np.pi / 2) % 1.0 - 0.5)
    radius = np.float32(rng.uniform(0.2, 0.38))
    return np.clip((radius - np.sqrt(one * one + two * two)) * 12.0 + 0.5, 0.0, 1.0)


def gradient(rng: Rng, h: int, w: int, period: float) -> Field:
    """A slow change from one side to the other. The period is not used."""
    angle = rng.uniform(0, 2 * np.pi)
    y = np.linspace(-0.5, 0.5, h, dtype=np.float32)[:, None] * np.float32(np.sin(angle))
    x = np.linspace(-0.5, 0.5, w, dtype=np.float32)[None, :] * np.float32(np.cos(angle))
    return np.clip(y + x + 0.5, 0.0, 1.0)


def speckle(rng: Rng, h: int, w: int, period: float) -> Field:
    """Fine grain with sparse bright specks."""
    fine = noise(rng, h, w, max(period / 5, 2.0))
    return np.clip(fine * 0.6 + 4.0 * np.clip(noise(rng, h, w, max(period / 4, 2.5)) - 0.75, 0, 1), 0, 1)


def clouds(rng: Rng, h: int, w: int, period: float) -> Field:
    """Fractal noise whose largest bumps are twice the period."""
    return fractal(rng, h, w, 2 * period)


KINDS: tuple[Callable[[Rng, int, int, float], Field], ...] = (
    clouds,
    stripes,
    checks,
    dots,
    gradient,
    speckle,
)


def any_texture(rng: Rng, h: int, w: int, period: float) -> Field:
    """A texture of random kind, sometimes the mixture of two.

    Returns:
        (h, w) in [0, 1].
    """
    field = KINDS[int(rng.integers(len(KINDS)))](rng, h, w, period)
    if rng.random() < 0.35:
        share = np.float32(rng.uniform(0.3, 0.6))
        field = (1 - share) * field + share * fractal(rng, h, w, period * rng.uniform(0.5, 3))
    return field


def colour(rng: Rng, value: tuple[float, float] = (0.2, 0.95), hue: float | None = None) -> Field:
    """A random colour.

    Args:
        rng: Source of randomness.
        value: Range of the brightness (V of HSV).
        hue: In turns; random when not given.

    Returns:
        (3,) RGB in [0, 1].
    """
    turn = float(rng.random() if hue is None else hue) % 1.0
    saturation, v = rng.beta(1.6, 1.8), rng.uniform(*value)
    # Piecewise-linear HSV: distance of the hue from each primary, on the circle.
    primary = np.abs((turn + np.array([0.0, 2 / 3, 1 / 3])) % 1.0 * 6.0 - 3.0) - 1.0
    return (v * (1 - saturation * (1 - np.clip(primary, 0, 1)))).astype(np.float32)


def colour_away_from(rng: Rng, luma: float, gap: float, hue: float | None = None) -> Field:
    """A random colour whose brightness differs from `luma` by at least `gap`, where a few draws find one.

    Args:
        rng: Source of randomness.
        luma: Brightness to stay away from.
        gap: Least difference.
        hue: See :func:`colour`.

    Returns:
        (3,) RGB in [0, 1].
    """
    best = colour(rng, hue=hue)
    for _ in range(6):
        if abs(float(best @ LUMA) - luma) >= gap:
            break
        best = colour(rng, hue=hue)
    return best


def mix(first: Field, second: Field, field: Field) -> Field:
    """Blend two colours.

    Args:
        first: (3,) colour where the field is 0.
        second: (3,) colour where it is 1.
        field: (h, w) weights.

    Returns:
        (h, w, 3).
    """
    # Channel by channel: broadcasting over an innermost axis of 3 is several times slower.
    planes = [f + (s - f) * field for f, s in zip(first, second, strict=True)]
    return cv2.merge(planes).astype(np.float32, copy=False)
