"""Images of a set after the transform of a test, plain or in many corrupted versions made from one reading."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from mmengine.dataset import Compose
from mmpretrain.datasets import PackInputs, ResizeEdge
from torch import Tensor
from torch.utils.data import Dataset

from cmae_mm.data.corruptions import corrupt, corruption_key
from cmae_mm.errors import UserError
from cmae_mm.transfer.robustness.image_sets import ImageSet


@dataclass(frozen=True)
class Corruptions:
    """What is done to each image.

    Attributes:
        kinds: Corruption and severity, one version of the image each.
        seed: Of all draws.
        jpeg: Whether versions go through JPEG.
    """

    kinds: tuple[tuple[str, int], ...]
    seed: int = 0
    jpeg: bool = True


class TestImages(Dataset):
    """Pairs of row and pixels: (3, H, W) uint8 BGR, or (V, 3, H, W) with one image for each corruption.

    Args:
        images: The set.
        steps: Transforms of the config's test pipeline, see `pixel_steps`.
        corruptions: Made after the transform, as ImageNet-C was; None leaves the images as they are.
    """

    __test__ = False  # for pytest: no test class

    def __init__(
        self, images: ImageSet, steps: Sequence[dict[str, Any]], corruptions: Corruptions | None = None
    ) -> None:
        self.images, self.corruptions = images, corruptions
        self.transform = Compose(list(steps))

    def __len__(self) -> int:
        return len(self.images.files)

    def __getitem__(self, row: int) -> tuple[int, Tensor]:
        path = self.images.files[row]
        pixels = self.transform({"img_path": str(path)})["img"]
        if self.corruptions is None:
            return row, _channels_first(pixels)
        rgb, name = np.ascontiguousarray(pixels[..., ::-1]), f"{path.parent.name}/{path.name}"
        options = self.corruptions
        versions = [
            corrupt(rgb, kind, level, corruption_key(name, kind, level, options.seed), options.jpeg)
            for kind, level in options.kinds
        ]
        return row, torch.stack([_channels_first(v[..., ::-1]) for v in versions])


def pixel_steps(pipeline: Sequence[dict[str, Any]], crop_only: bool = False) -> list[dict[str, Any]]:
    """The steps of a test pipeline from file to pixels.

    Args:
        pipeline: Of a classification config.
        crop_only: Without the resize: for ImageNet-C's files, which are crops of 224 px already.

    Returns:
        The steps without packing.

    Raises:
        UserError: The pipeline packs nothing, or has no resize to leave out.
    """
    steps = [dict(step) for step in pipeline if step["type"] not in (PackInputs, "PackInputs")]
    if len(steps) == len(pipeline):
        raise UserError(
            "test_dataloader.dataset.pipeline: does not end in PackInputs; use a classification config"
        )
    if not crop_only:
        return steps
    kept = [step for step in steps if step["type"] not in (ResizeEdge, "ResizeEdge")]
    if len(kept) == len(steps):
        raise UserError("test_dataloader.dataset.pipeline: has no ResizeEdge; use --c-transform test")
    return kept


def _channels_first(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
