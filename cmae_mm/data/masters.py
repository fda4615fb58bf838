"""The input of pretraining: one uint8 crop of each image; everything else is made on the device."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from mmengine.logging import print_log
from mmpretrain.registry import DATASETS
from torch import Tensor
from torch.utils.data import Dataset

from cmae_mm.data.broken import NAMED, BrokenImages
from cmae_mm.data.crop import center_crop, crop_resize, random_box, resize
from cmae_mm.data.decode import BrokenImageError, decode_bgr
from cmae_mm.data.sources import Source, open_source
from cmae_mm.errors import UserError

CROPS = ("random", "center", "whole")


def draw_key(seed: int, epoch: int, index: int) -> int:
    """The number that stands for all random draws of one sample.

    Args:
        seed: Of the run.
        epoch: From 0.
        index: Of the image.

    Returns:
        63 bits of BLAKE2b over the three numbers.
    """
    digest = hashlib.blake2b(struct.pack("<qqq", seed, epoch, index), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


@DATASETS.register_module()
class MasterImages(Dataset):
    """Master crops of images in a folder, in tar files or in WebDataset shards (docs/data.md).

    A sample is a dict: ``inputs`` (3, size, size) uint8 BGR, not flipped; ``draw_key``, an int64 from which the
    device draws the sample's augmentations; ``label``, -1 where not known; with ``crop="whole"`` also ``aspect``,
    width / height of the image.

    ``dataset[k]`` is image ``k % len`` in epoch ``k // len``. So the loader processes, which live on from epoch to
    epoch and load ahead, know the epoch of each sample (`EpochSampler`). The draws depend on seed, epoch and image
    alone: not on the number of processes, nor on what was loaded before.

    An image that cannot be read is replaced by the next one that can, and counted.

    Args:
        data_root: Folder, tar, or pattern of shards; see `open_source`.
        split: Part of the data.
        size: Side of the crop in pixels.
        crop: ``random``: a random resized crop; ``center``: short side to size * 256 / 224, then the centre, without
            draws; ``whole``: all of the image, squashed to a square.
        scale: Share of the area, for random crops.
        ratio: Width / height, for random crops.
        per_class: Only so many images of each class, the first by name.
        max_broken: This fraction of the images may be unreadable, and one in any case; 0 allows none.
        seed: Of the draws; `EpochSampler` sets it to its own.
        index_dir: Where indices of tars are kept; default beside the tars.
        upright: Apply the EXIF orientation, as photographs of a camera want it. Published ImageNet numbers do not.

    Raises:
        UserError: There are no images, or an argument is out of range.
    """

    def __init__(
        self,
        data_root: str | Path,
        split: str = "train",
        size: int = 256,
        crop: Literal["random", "center", "whole"] = "random",
        scale: tuple[float, float] = (0.2, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        per_class: int | None = None,
        max_broken: float = 0.001,
        seed: int = 0,
        index_dir: str | Path | None = None,
        upright: bool = True,
    ) -> None:
        _check(crop, scale, ratio, max_broken, per_class)
        self.size = size
        self.crop = crop
        self.scale = scale
        self.ratio = ratio
        self.seed = seed
        self.upright = upright
        self.source: Source = open_source(data_root, split, index_dir)
        self._rows = None if per_class is None else _first_of_each_class(self.source, per_class)
        self.broken = BrokenImages(len(self), max_broken)

    @property
    def metainfo(self) -> dict[str, Any]:
        """``classes``, as OpenMMLab's data sets have it."""
        return {"classes": self.source.classes}

    def full_init(self) -> None:
        """Say in the log what was found; mmengine calls this when it builds the loader."""
        classes = f"{len(self.source.classes):,} classes" if self.source.classes else "unknown classes"
        print_log(
            f"data: {len(self):,} images of {classes} from {self.source.where} ({self.source.kind})",
            logger="current",
        )

    def set_seed(self, seed: int) -> None:
        """Set the seed of the draws; before loader processes start."""
        self.seed = seed

    def __len__(self) -> int:
        return len(self.source) if self._rows is None else len(self._rows)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """One epoch; indexing alone would never end."""
        return (self[i] for i in range(len(self)))

    def __getitem__(self, k: int) -> dict[str, Any]:
        if k < 0:
            raise IndexError(k)
        epoch, index = divmod(k, len(self))
        row, pixels = self._readable(index)
        key = draw_key(self.seed, epoch, index)
        sample = {"inputs": self._cut(pixels, key), "draw_key": key, "label": self.source.label(row)}
        if self.crop == "whole":
            sample["aspect"] = pixels.shape[1] / pixels.shape[0]
        return sample

    def name(self, index: int) -> str:
        """Where an image is, for messages."""
        return self.source.name(self._row(index))

    def problem(self, index: int) -> str | None:
        """Say what is wrong with an image, or None if it can be read now."""
        try:
            decode_bgr(self.source.read(self._row(index)), self.upright)
        except (BrokenImageError, OSError) as error:
            return self._sentence(index, error)
        return None

    def _row(self, index: int) -> int:
        return index if self._rows is None else int(self._rows[index])

    def _sentence(self, index: int, error: Exception) -> str:
        return f"cannot read the image {self.name(index)} ({error})"

    def _readable(self, index: int) -> tuple[int, np.ndarray]:
        """Row and pixels of an image, or of the next one that can be read.

        Raises:
            TooManyBrokenError: More images are broken than allowed, or all.
        """
        for i in (j % len(self) for j in range(index, index + len(self))):
            if i in self.broken:
                continue
            row = self._row(i)
            try:
                return row, decode_bgr(self.source.read(row), self.upright)
            except (BrokenImageError, OSError) as error:
                self.broken.add(i, self._sentence(i, error))
            if len(self.broken) > self.broken.limit:
                break
        raise self.broken.error(len(self.broken), [self.name(i) for i in self.broken.found()[:NAMED]])

    def _cut(self, pixels: np.ndarray, key: int) -> Tensor:
        if self.crop == "whole":
            return resize(pixels, self.size, self.size)
        if self.crop == "center":
            return center_crop(pixels, self.size)
        height, width = pixels.shape[:2]
        box = random_box(width, height, self.scale, self.ratio, np.random.default_rng(key))
        return crop_resize(pixels, box, self.size)


def check_masters(arguments: dict[str, Any], sample: int = 32) -> None:
    """Check a data set before anything is built from it: find its images and decode some of them.

    Args:
        arguments: Those of `MasterImages`.
        sample: At most so many images are decoded, evenly spread.

    Raises:
        UserError: There are no images, an argument is wrong, or more images of the sample are broken than the data set
            allows, or than half of it.
    """
    dataset = MasterImages(**arguments)
    chosen = np.unique(np.linspace(0, len(dataset) - 1, min(sample, len(dataset))).astype(int)).tolist()
    problems = [problem for i in chosen if (problem := dataset.problem(i))]
    if len(problems) > min(dataset.broken.limit, len(chosen) // 2):
        raise UserError(
            f"{problems[0]}; so it is with {len(problems)} of the {len(chosen)} images that were tried: copy or "
            "download them again, or remove them"
        )


def _check(
    crop: str, scale: tuple[float, float], ratio: tuple[float, float], broken: float, per_class: int | None
) -> None:
    if crop not in CROPS:
        raise UserError(f"MasterImages: crop is {crop!r}; set one of {', '.join(CROPS)}")
    if not 0 < scale[0] <= scale[1] <= 1:
        raise UserError(f"MasterImages: scale is {scale}; set two shares of the area in (0, 1], lower first")
    if not 0 < ratio[0] <= ratio[1]:
        raise UserError(f"MasterImages: ratio is {ratio}; set two positive numbers, lower first")
    if not 0 <= broken < 1:
        raise UserError(f"MasterImages: max_broken is {broken}; set a fraction from 0 to below 1")
    if per_class is not None and per_class < 1:
        raise UserError(f"MasterImages: per_class is {per_class}; set 1 or more, or None for all")


def _first_of_each_class(source: Source, count: int) -> np.ndarray:
    """Rows of the first images of each class; sources are sorted by class and name."""
    seen: dict[int, int] = {}
    rows = []
    for i in range(len(source)):
        label = source.label(i)
        seen[label] = seen.get(label, 0) + 1
        if seen[label] <= count:
            rows.append(i)
    return np.array(rows, np.int64)
