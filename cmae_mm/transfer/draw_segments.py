"""Label maps drawn over pictures: tinted segments with borders, hatched void, and where a prediction is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cmae_mm.transfer.draw_instances import RGB, Picture

VOID = 255
WRONG: RGB = (214, 40, 57)
_TINT = 0.72  # how much of a class's colour covers its pixels
_PALE = 0.55  # how much white covers what is right in the map of errors

Labels = NDArray[np.uint8]


@dataclass(frozen=True)
class Segmented:
    """One image with its true and predicted label map.

    Attributes:
        name: File name.
        image: (H, W, 3) RGB.
        truth: (H, W), 255 for void.
        given: (H, W).
    """

    name: str
    image: Picture
    truth: Labels
    given: Labels

    @property
    def wrong(self) -> NDArray[np.bool_]:
        """(H, W): labelled pixels whose prediction is not the truth."""
        return (self.truth != self.given) & (self.truth != VOID)

    @property
    def accuracy(self) -> float:
        """Share of the labelled pixels that are right; 1 without any."""
        labelled = int((self.truth != VOID).sum())
        return 1 - int(self.wrong.sum()) / labelled if labelled else 1.0


@dataclass(frozen=True)
class Entry:
    """A class of an image's legend.

    Attributes:
        label: Its index.
        truth: Share of the labelled pixels that belong to it.
        given: Share of the labelled pixels that were given to it.
        iou: Intersection over union in this image.
    """

    label: int
    truth: float
    given: float
    iou: float


def entries(one: Segmented, most: int = 18) -> tuple[list[Entry], int]:
    """Classes that occur in an image, those of most pixels first.

    Args:
        one: The image.
        most: How many are returned.

    Returns:
        The entries, and how many classes are left out.
    """
    labelled = one.truth != VOID
    true, given = (np.bincount(part[labelled], minlength=256) for part in (one.truth, one.given))
    both = np.bincount(one.truth[labelled & ~one.wrong], minlength=256)
    total = max(int(labelled.sum()), 1)
    found = [
        Entry(k, true[k] / total, given[k] / total, both[k] / (true[k] + given[k] - both[k]))
        for k in np.flatnonzero(true + given).tolist()
    ]
    found.sort(key=lambda entry: (-entry.truth, -entry.given))
    return found[:most], max(len(found) - most, 0)


def panels(one: Segmented, colors: Sequence[RGB], width: int) -> list[Picture]:
    """Draw image, truth, prediction and errors at one width.

    Args:
        one: The image.
        colors: One for each class.
        width: Of each panel in pixels.

    Returns:
        Four (round(H * width / W), width, 3) RGB pictures.
    """
    size = (width, max(1, round(one.image.shape[0] * width / one.image.shape[1])))
    smooth = Image.Resampling.LANCZOS if width < one.image.shape[1] else Image.Resampling.BICUBIC
    image = np.array(Image.fromarray(one.image).resize(size, smooth))
    truth, given = (
        cv2.resize(part, size, interpolation=cv2.INTER_NEAREST) for part in (one.truth, one.given)
    )
    return [image, _tinted(image, truth, colors), _tinted(image, given, colors), _errors(image, truth, given)]


def _grey(image: Picture) -> NDArray[np.float32]:
    return np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2).astype(np.float32)


def _tinted(image: Picture, labels: Labels, colors: Sequence[RGB]) -> Picture:
    table = np.zeros((256, 3), np.float32)
    table[: len(colors)] = colors
    drawn = _TINT * table[labels] + (1 - _TINT) * _grey(image)
    drawn[_borders(labels)] = 255
    return _hatched(drawn, image, labels == VOID)


def _errors(image: Picture, truth: Labels, given: Labels) -> Picture:
    """What is right fades, what is wrong is red."""
    grey = _grey(image)
    drawn = _PALE * 255 + (1 - _PALE) * grey
    wrong = (truth != given) & (truth != VOID)
    drawn[wrong] = (0.75 * np.array(WRONG, np.float32) + 0.25 * grey)[wrong]
    return _hatched(drawn, image, truth == VOID)


def _borders(labels: Labels) -> NDArray[np.bool_]:
    """Pixels whose right or lower neighbour has another label; void needs no border."""
    marked = np.zeros(labels.shape, bool)
    for here, there in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:])):
        pair = labels[here], labels[there]
        marked[here] |= (pair[0] != pair[1]) & (pair[0] != VOID) & (pair[1] != VOID)
    return marked


def _hatched(drawn: NDArray[np.float32], image: Picture, void: NDArray[np.bool_]) -> Picture:
    """Void is dark with stripes: nothing is asked there."""
    rows, columns = np.indices(void.shape)
    stripes = (rows + columns) % 10 < 2
    dark = 0.35 * _grey(image) + 30
    dark[stripes] += 45
    drawn[void] = dark[void]
    return np.clip(drawn, 0, 255).astype(np.uint8)
