"""The usual look of each class: real objects have one, though not always.

A zebra is striped and a fire engine is red. So most objects of a class wear the texture and the hue of that
class, and the rest any; no single cue names the class, and cues at several scales agree with each other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from cmae_mm.data import textures
from cmae_mm.data.textures import Field, Rng

TEXTURE_SHARE = 0.8
"""Share of the objects that wear the texture of their class."""
HUE_SHARE = 0.5
"""Share of the objects that wear the hue of their class."""
HUE_SPREAD = 0.05
"""Standard deviation around the class's hue, in turns."""


Texture = Callable[[Rng, int, int, float], Field]
"""Draws (h, w) values in [0, 1] with a period in pixels."""


class Coat(NamedTuple):
    """What an object wears.

    Attributes:
        texture: Draws the texture.
        period: Its period over the object's radius.
        strength: How far its second colour is from the first, 0 to 1.
        hue: In turns; any when None.
    """

    texture: Texture
    period: float
    strength: float
    hue: float | None


# Texture and hue, spread so that no two classes share both.
_USUAL: dict[str, tuple[Texture, float, float]] = {
    "arrow": (textures.stripes, 0.25, 0.92),
    "car": (textures.gradient, 1.2, 0.0),
    "cup": (textures.stripes, 0.6, 0.58),
    "fish": (textures.dots, 0.22, 0.50),
    "house": (textures.checks, 0.3, 0.08),
    "key": (textures.speckle, 0.2, 0.14),
    "leaf": (textures.stripes, 0.15, 0.33),
    "ring": (textures.dots, 0.4, 0.75),
    "star": (textures.checks, 0.6, 0.17),
    "tree": (textures.clouds, 0.3, 0.36),
}


def draw_coat(rng: Rng, name: str | None) -> Coat:
    """Choose what one object wears.

    Args:
        rng: Source of randomness.
        name: Its class, or None for a distractor, which wears anything.

    Returns:
        The coat.
    """
    texture: Texture = textures.any_texture
    period, strength = float(rng.uniform(0.15, 0.6)), float(rng.uniform(0.0, 0.5))
    hue = None
    if name is not None:
        usual, relative, tone = _USUAL[name]
        if rng.random() < TEXTURE_SHARE:
            texture, strength = usual, float(rng.uniform(0.45, 0.9))
            period = relative * float(rng.uniform(0.8, 1.25))
        if rng.random() < HUE_SHARE:
            hue = tone + float(rng.normal(0, HUE_SPREAD))
    return Coat(texture, period, strength, hue)
