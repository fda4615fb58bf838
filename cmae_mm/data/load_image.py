"""The first step of ImageNet pipelines: an image file becomes pixels, the way published numbers were made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmcv.transforms import BaseTransform
from mmpretrain.registry import TRANSFORMS

from cmae_mm.data.decode import BrokenImageError, decode_bgr
from cmae_mm.errors import UserError


@TRANSFORMS.register_module()
class LoadImage(BaseTransform):
    """Read ``img_path`` as 8-bit BGR.

    Unlike mmcv's ``LoadImageFromFile`` it does not turn images by their EXIF orientation, as timm, MAE and DINO do
    not, reads CMYK as Pillow does, and refuses files that are cut short. What a file is, is told by its first bytes,
    not by its name: one JPEG of ImageNet is a PNG.

    Args:
        upright: Turn images by their EXIF orientation.
    """

    def __init__(self, upright: bool = False) -> None:
        self.upright = upright

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Add ``img``, (H, W, 3) uint8, with ``img_shape`` and ``ori_shape``.

        Args:
            results: Has ``img_path``.

        Returns:
            The same dict.

        Raises:
            UserError: The image is missing or broken.
        """
        path = Path(results["img_path"])
        try:
            image = decode_bgr(path.read_bytes(), self.upright)
        except (OSError, BrokenImageError) as error:
            raise UserError(
                f"cannot read the image {path} ({error}); copy or download it again; "
                f"`cmae-mm data check imagenet` finds all such files"
            ) from None
        results.update(img=image, img_shape=image.shape[:2], ori_shape=image.shape[:2])
        return results
