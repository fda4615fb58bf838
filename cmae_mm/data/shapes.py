"""The outlines of the objects: one function for each class, plus distractors that belong to none.

A shape is a list of parts in painting order, in a box of about [-1, 1] with y pointing down. Every draw
varies its proportions and inner structure, so a class is known by its form and not by one template.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
Rng = np.random.Generator

HOLE, BODY, SECOND, DETAIL, DARK, LIGHT = range(6)
"""Materials of a part. 0 takes away what was painted before it."""


@dataclass(frozen=True)
class Part:
    """One filled polygon of a shape.

    Attributes:
        points: (n, 2) x and y.
        material: One of the constants above.
        extends: Whether it adds to the outline; otherwise it shows only inside what is already there.
    """

    points: Points
    material: int
    extends: bool = True


Shape = list[Part]


def _polygon(*points: tuple[float, float]) -> Points:
    return np.array(points, dtype=np.float64)


def _box(x0: float, y0: float, x1: float, y1: float) -> Points:
    return _polygon((x0, y0), (x1, y0), (x1, y1), (x0, y1))


def _oval(x: float, y: float, rx: float, ry: float, start: float = 0.0, stop: float = 1.0) -> Points:
    turns = np.linspace(start, stop, 32) * 2 * np.pi
    return np.stack([x + rx * np.cos(turns), y + ry * np.sin(turns)], axis=1)


def _line(x0: float, y0: float, x1: float, y1: float, thick: float) -> Points:
    along = np.array([x1 - x0, y1 - y0])
    nx, ny = np.array([-along[1], along[0]]) / max(float(np.hypot(*along)), 1e-9) * thick / 2
    return _polygon((x0 + nx, y0 + ny), (x1 + nx, y1 + ny), (x1 - nx, y1 - ny), (x0 - nx, y0 - ny))


def _inside(points: Points, material: int = DETAIL) -> Part:
    return Part(points, material, extends=False)


def _spikes(count: int, inner: float, outer: float = 1.0) -> Points:
    turns = (np.arange(2 * count) / (2 * count) - 0.25) * 2 * np.pi
    radius = np.where(np.arange(2 * count) % 2 == 0, outer, inner)
    return np.stack([radius * np.cos(turns), radius * np.sin(turns)], axis=1)


def arrow(rng: Rng) -> Shape:
    """A shaft with a triangular head, plain or with a notched tail."""
    shaft, neck, head = rng.uniform(0.16, 0.32), rng.uniform(-0.1, 0.3), rng.uniform(0.55, 0.8)
    tail, barb = rng.choice([0.0, 0.25]), rng.choice([0.0, 0.2])
    outline = _polygon(
        (1, 0),
        (neck - barb, head),
        (neck, shaft),
        (-1, shaft),
        (-1 + tail, 0),
        (-1, -shaft),
        (neck, -shaft),
        (neck - barb, -head),
    )
    parts = [Part(outline, BODY)]
    if rng.random() < 0.5:
        parts.append(_inside(_polygon((0.85, 0), (neck + 0.1, head * 0.7), (neck + 0.1, -head * 0.7))))
    if rng.random() < 0.3:
        parts.append(_inside(_line(-0.9, 0, 0.6, 0, shaft * 0.6), DARK))
    return parts


def car(rng: Rng) -> Shape:
    """A side view: body, cabin with two windows, two wheels, a lamp."""
    wheel, top = rng.uniform(0.2, 0.27), rng.uniform(-0.55, -0.4)
    front, back = rng.uniform(0.25, 0.5), rng.uniform(-0.75, -0.5)
    belt, floor = rng.uniform(-0.08, 0.02), rng.uniform(0.34, 0.4)
    body = _polygon((-1, belt + 0.05), (-0.93, belt), (0.85, belt), (1, belt + 0.15), (1, floor), (-1, floor))
    cabin = _polygon((back - 0.12, belt), (back, top), (front - 0.2, top), (front + 0.1, belt))
    middle = (back + front - 0.2) / 2
    parts = [Part(cabin, SECOND if rng.random() < 0.5 else BODY), Part(body, BODY)]
    glass = LIGHT if rng.random() < 0.7 else DARK
    parts.append(_inside(_box(back + 0.05, top + 0.09, middle - 0.04, belt - 0.03), glass))
    parts.append(_inside(_box(middle + 0.04, top + 0.09, front - 0.2, belt - 0.03), glass))
    parts.append(_inside(_box(0.87, belt + 0.17, 1, belt + 0.28), LIGHT))
    if rng.random() < 0.4:
        parts.append(_inside(_box(-1, belt + 0.18, 0.8, belt + 0.26)))
    for x in (-0.55, 0.55):
        parts.append(Part(_oval(x, floor, wheel, wheel), DARK))
        parts.append(_inside(_oval(x, floor, wheel * 0.45, wheel * 0.45), LIGHT))
    return parts


def cup(rng: Rng) -> Shape:
    """A mug with an open rim and a handle with a hole."""
    top, foot, depth = rng.uniform(0.55, 0.68), rng.uniform(0.36, 0.6), rng.uniform(0.1, 0.22)
    y0, y1, grip = rng.uniform(-0.75, -0.55), rng.uniform(0.65, 0.85), rng.uniform(0.3, 0.42)
    mid = (y0 + y1) / 2
    x = (top + foot) / 2 - 0.02
    parts = [
        Part(_oval(x, mid, grip, grip * 1.1), SECOND),
        Part(_oval(x, mid, grip * 0.56, grip * 0.68), HOLE),
        Part(_polygon((-top, y0), (top, y0), (foot, y1), (-foot, y1)), BODY),
        Part(_oval(0, y1, foot, depth * 0.7), BODY),
    ]
    if rng.random() < 0.5:
        parts.append(_inside(_box(-top, mid - 0.12, foot * 0.9, mid + rng.uniform(0.05, 0.2))))
    parts.append(Part(_oval(0, y0, top, depth), LIGHT))
    parts.append(_inside(_oval(0, y0, top * 0.86, depth * 0.75), DARK))
    return parts


def fish(rng: Rng) -> Shape:
    """A lens-shaped body with a forked tail, fins, an eye and sometimes bands."""
    fat, root = rng.uniform(0.34, 0.5), rng.uniform(-0.5, -0.35)
    turns = np.linspace(0, 1, 20)
    curve = fat * np.sin(np.pi * turns**0.85) ** 0.9
    x = np.linspace(1, root - 0.15, 20)
    body = np.concatenate([np.stack([x, -curve], 1), np.stack([x, curve * 0.9], 1)[::-1]])
    tail = rng.uniform(0.4, 0.55)
    parts = [
        Part(_polygon((root + 0.05, 0), (-1, -tail), (-0.8, 0), (-1, tail)), SECOND),
        Part(
            _polygon((0.35, -fat * 0.8), (-0.05, -fat - rng.uniform(0.15, 0.35)), (-0.25, -fat * 0.6)), SECOND
        ),
        Part(_polygon((0.2, fat * 0.7), (-0.1, fat + rng.uniform(0.1, 0.25)), (-0.15, fat * 0.6)), SECOND),
        Part(body, BODY),
    ]
    for k in range(int(rng.integers(0, 4))):
        parts.append(_inside(_line(0.25 - 0.25 * k, -0.6, 0.2 - 0.25 * k, 0.6, 0.1)))
    parts.append(_inside(_oval(0.66, -fat * 0.25, 0.11, 0.11), LIGHT))
    parts.append(_inside(_oval(0.68, -fat * 0.25, 0.055, 0.055), DARK))
    return parts


def house(rng: Rng) -> Shape:
    """A wall with a gable roof, a door, windows and sometimes a chimney."""
    wide, eaves, top = rng.uniform(0.6, 0.85), rng.uniform(-0.3, 0.0), rng.uniform(-1.0, -0.8)
    over, ridge = rng.uniform(0.05, 0.15), rng.uniform(0.0, 0.35)
    parts = []
    if rng.random() < 0.6:
        x = rng.choice([-1, 1]) * wide * 0.55
        parts.append(Part(_box(x - 0.09, top, x + 0.09, eaves), DARK))
    parts.append(Part(_box(-wide, eaves, wide, 0.9), BODY))
    roof = _polygon((-wide - over, eaves), (-ridge, top), (ridge, top), (wide + over, eaves))
    parts.append(Part(roof, SECOND))
    door = rng.uniform(-0.35, 0.35) * wide
    parts.append(_inside(_box(door - 0.15, 0.38, door + 0.15, 0.9), DARK))
    for x in (-wide * 0.68, wide * 0.68, 0.0):
        if abs(x - door) > 0.34 and (x != 0.0 or rng.random() < 0.5):
            parts.append(_inside(_box(x - 0.15, eaves + 0.2, x + 0.15, eaves + 0.48), LIGHT))
            parts.append(_inside(_line(x, eaves + 0.2, x, eaves + 0.48, 0.05), DARK))
    return parts


def key(rng: Rng) -> Shape:
    """A bow with a hole, a shaft and teeth."""
    bow, shaft = rng.uniform(0.34, 0.44), rng.uniform(0.16, 0.22)
    parts = [Part(_box(-0.5, -shaft / 2, 1, shaft / 2), BODY)]
    teeth = int(rng.integers(2, 4))
    for k in range(teeth):
        x = 0.95 - 0.24 * k
        parts.append(Part(_box(x - 0.14, 0, x, rng.uniform(0.26, 0.42)), BODY))
    if rng.random() < 0.5:
        parts.append(Part(_oval(-0.6, 0, bow, bow * rng.uniform(0.9, 1.2)), SECOND))
    else:
        parts.append(Part(np.add(_spikes(4, bow * 1.05, bow * 1.2), [-0.6, 0]), SECOND))
    hole = bow * rng.uniform(0.5, 0.62)
    parts.append(Part(_oval(-0.6, 0, hole, hole), HOLE))
    return parts


def leaf(rng: Rng) -> Shape:
    """A pointed blade with a midrib, side veins and a stalk; the rim may be serrated."""
    fat, bulge = rng.uniform(0.4, 0.6), rng.uniform(0.7, 1.1)
    t = np.linspace(0, 1, 36)
    half = fat * np.sin(np.pi * t**bulge)
    if rng.random() < 0.4:
        half = half * (1 + 0.16 * (np.arange(36) % 4 / 3 - 0.5))
    y = 0.65 - 1.65 * t
    blade = np.concatenate([np.stack([half, y], 1), np.stack([-half, y], 1)[::-1]])
    parts = [Part(_line(0, 0.6, rng.uniform(-0.2, 0.2), 1, 0.09), SECOND), Part(blade, BODY)]
    vein = DARK if rng.random() < 0.5 else LIGHT
    parts.append(_inside(_line(0, 0.7, 0, -0.95, 0.07), vein))
    for k in range(int(rng.integers(3, 5))):
        base = 0.45 - 0.32 * k
        for side in (-1, 1):
            parts.append(_inside(_line(0, base, side * fat * 0.85, base - 0.35, 0.05), vein))
    return parts


def ring(rng: Rng) -> Shape:
    """A band with a large hole, sometimes with a groove or beads."""
    flat, inner = rng.uniform(0.65, 1.0), rng.uniform(0.5, 0.7)
    parts = [Part(_oval(0, 0, 1, flat), BODY)]
    middle = (1 + inner) / 2
    if rng.random() < 0.4:
        parts += [_inside(_oval(0, 0, middle + 0.06, flat * (middle + 0.06)))]
        parts += [_inside(_oval(0, 0, middle - 0.06, flat * (middle - 0.06)), BODY)]
    elif rng.random() < 0.6:
        for turn in np.arange(8) / 8 * 2 * np.pi:
            bead = (1 - inner) * 0.28
            parts.append(_inside(_oval(middle * np.cos(turn), flat * middle * np.sin(turn), bead, bead)))
    parts.append(Part(_oval(0, 0, inner, flat * inner), HOLE))
    return parts


def star(rng: Rng) -> Shape:
    """Five or six spikes, sometimes faceted or with a smaller star inside."""
    count, inner = (5 if rng.random() < 0.75 else 6), rng.uniform(0.36, 0.5)
    outline = _spikes(count, inner)
    parts = [Part(outline, BODY)]
    inside = rng.random()
    if inside < 0.4:
        for k in range(count):
            facet = np.stack([np.zeros(2), outline[2 * k], outline[2 * k + 1]])
            parts.append(_inside(facet))
    elif inside < 0.7:
        parts.append(_inside(outline * 0.55, LIGHT if rng.random() < 0.5 else DETAIL))
    return parts


def tree(rng: Rng) -> Shape:
    """A trunk below a crown of stacked triangles or of round clumps."""
    trunk = rng.uniform(0.08, 0.15)
    parts = [Part(_box(-trunk, 0.1, trunk, 1), SECOND)]
    if rng.random() < 0.5:
        levels = int(rng.integers(2, 5))
        for k in range(levels):
            low, half = 0.62 - 1.0 * k / levels, 0.75 - 0.42 * k / levels
            parts.append(Part(_polygon((-half, low), (0, low - 1.35 / levels - 0.1), (half, low)), BODY))
            if k:
                parts.append(_inside(_line(-half * 0.9, low, half * 0.9, low, 0.06), DARK))
        return parts
    for x, y, r in (
        (-0.4, 0.05, 0.36),
        (0.4, 0.05, 0.36),
        (-0.28, -0.42, 0.36),
        (0.28, -0.42, 0.36),
        (0, -0.2, 0.5),
    ):
        dx, dy = rng.uniform(-0.08, 0.08, 2)
        parts.append(Part(_oval(x + dx, y + dy, r, r), BODY))
    for _ in range(int(rng.integers(0, 7))):
        x, y = rng.uniform(-0.5, 0.5), rng.uniform(-0.6, 0.2)
        parts.append(_inside(_oval(x, y, 0.08, 0.08)))
    return parts


def distractor(rng: Rng) -> Shape:
    """Something that belongs to no class: a simple polygon, a cross, a blob or a half disc."""
    kind = int(rng.integers(6))
    if kind == 0:
        turns = (np.arange(3) / 3 + rng.uniform(-0.08, 0.08, 3)) * 2 * np.pi
        return [Part(np.stack([np.cos(turns), np.sin(turns)], 1), BODY)]
    if kind == 1:
        half = rng.uniform(0.15, 1.0)
        return [Part(_box(-1, -half, 1, half), BODY), _inside(_box(-0.6, -half * 0.6, 0.6, half * 0.6))]
    if kind == 2:
        arm = rng.uniform(0.2, 0.35)
        return [Part(_box(-1, -arm, 1, arm), BODY), Part(_box(-arm, -1, arm, 1), BODY)]
    if kind == 3:
        angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
        radius: Points = np.full(40, 0.7)
        for k in (2, 3, 4):
            radius += rng.uniform(-0.14, 0.14) * np.cos(k * angles + rng.uniform(0, 6))
        return [Part(np.stack([radius * np.cos(angles), radius * np.sin(angles)], 1), BODY)]
    if kind == 4:
        return [Part(_oval(0, 0, 1, rng.uniform(0.6, 1), 0, 0.5), BODY)]
    x = np.linspace(-1, 1, 7)
    y = np.where(np.arange(7) % 2 == 0, -0.25, 0.25)
    return [Part(np.concatenate([np.stack([x, y - 0.15], 1), np.stack([x, y + 0.15], 1)[::-1]]), BODY)]


SHAPES: dict[str, Callable[[Rng], Shape]] = {
    f.__name__: f for f in (arrow, car, cup, fish, house, key, leaf, ring, star, tree)
}
"""The drawing function of each class."""

UPRIGHT: frozenset[str] = frozenset({"car", "cup", "house", "tree"})
"""Classes that only lean; the others turn freely."""


def pose(rng: Rng, name: str | None, x: float, y: float, radius: float) -> NDArray[np.float64]:
    """A random turn, mirror, stretch and shear, then the given place and size.

    Args:
        rng: Source of randomness.
        name: Class of the object, or None for a distractor.
        x: Centre, in canvas pixels.
        y: Centre, in canvas pixels.
        radius: Half the size, in canvas pixels.

    Returns:
        (2, 3) affine matrix from shape to canvas.
    """
    if name in UPRIGHT:
        angle = rng.normal(0, 0.2)
    elif name == "fish":
        angle = rng.normal(0, 0.45)
    else:
        angle = rng.uniform(0, 2 * np.pi)
    stretch = np.exp(rng.uniform(-0.16, 0.16))
    mirror = rng.choice([-1.0, 1.0])
    cos, sin = np.cos(angle), np.sin(angle)
    inner = np.array([[mirror * stretch, rng.uniform(-0.15, 0.15)], [0.0, 1 / stretch]])
    linear = np.array([[cos, -sin], [sin, cos]]) @ inner * radius
    return np.concatenate([linear, [[x], [y]]], axis=1)


def moved(shape: Sequence[Part], matrix: NDArray[np.float64]) -> Shape:
    """The shape with every point sent through a (2, 3) affine matrix."""
    return [Part(p.points @ matrix[:, :2].T + matrix[:, 2], p.material, p.extends) for p in shape]
