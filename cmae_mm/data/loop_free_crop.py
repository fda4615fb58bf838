"""The random resized crop of linear probes: one draw, whatever comes out (MAE, after BYOL)."""

from __future__ import annotations

import math

import numpy as np
from mmcv.transforms.utils import cache_randomness
from mmpretrain.datasets import RandomResizedCrop
from mmpretrain.registry import TRANSFORMS


@TRANSFORMS.register_module()
class LoopFreeResizedCrop(RandomResizedCrop):
    """A random resized crop whose sides are cut to the image in place of drawing again.

    The usual one draws up to ten times until the box fits, so long boxes are rarer there.
    """

    @cache_randomness
    def rand_crop_params(self, img: np.ndarray) -> tuple[int, int, int, int]:
        """Draw a box.

        Args:
            img: (H, W, C).

        Returns:
            Top, left, height, width.
        """
        height, width = img.shape[:2]
        area = height * width * np.random.uniform(*self.crop_ratio_range)
        low, high = map(math.log, self.aspect_ratio_range)
        aspect = math.exp(np.random.uniform(low, high))
        w = min(max(round(math.sqrt(area * aspect)), 1), width)
        h = min(max(round(math.sqrt(area / aspect)), 1), height)
        return np.random.randint(height - h + 1), np.random.randint(width - w + 1), h, w
