"""From a uint8 master crop to the two normalised views of CMAE, on the model's device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from mmpretrain.models import SelfSupDataPreprocessor
from mmpretrain.registry import MODELS
from torch import Tensor

import cmae_mm.pretrain.views as ops
from cmae_mm.errors import UserError

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)


class CapturedViews(NamedTuple):
    """What the last training batch looked like.

    Attributes:
        master: (N, 3, H, W) as the loader gave it.
        img: (N, 3, size, size) normalised online view.
        img_t: (N, 3, size, size) normalised target view.
    """

    master: Tensor
    img: Tensor
    img_t: Tensor


@MODELS.register_module()
class CMAEDataPreprocessor(SelfSupDataPreprocessor):
    """Pixel shift, colour augmentation and normalisation (CMAE, section 3.2; official pipeline).

    The loader gives BGR master crops (OpenMMLab's default), already flipped, so that both views share the
    flip. The online view is a window of the master, the target view a shifted window with colour
    augmentation. In evaluation the centre window is normalised and nothing is drawn.

    The official code reads RGB, then swaps the channels while normalising with RGB statistics:
    the network sees BGR, and luma weighs blue as if it were red. Taking BGR masters as they are, as
    ``channel_order="bgr"`` does here, is the same thing.

    Args:
        size: Side of the views in pixels.
        max_shift: Largest shift of the target view in pixels, inclusive, down and right.
        online_shift: Largest shift of the online view; 0 fixes it at the top-left corner.
        channel_order: Order of the network's input channels.
        color_jitter: Strengths ``brightness``, ``contrast``, ``saturation``, ``hue`` and ``prob``.
        gray_prob: Probability of a grey image.
        blur_prob: Probability of a Gaussian blur.
        blur_sigma: Range of the blur's width in pixels.
        augment_online: Also give the online view the colour augmentation (an ablation).
        mean: Per input channel, on [0, 255].
        std: Per input channel, on [0, 255].
        capture: Keep the last training batch in ``captured``, for pictures.
        non_blocking: Copy to the device without waiting.
    """

    def __init__(
        self,
        size: int = 224,
        max_shift: int = 31,
        online_shift: int = 0,
        channel_order: Literal["bgr", "rgb"] = "bgr",
        color_jitter: dict[str, float] | None = None,
        gray_prob: float = 0.2,
        blur_prob: float = 0.5,
        blur_sigma: tuple[float, float] = (0.1, 2.0),
        augment_online: bool = False,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        capture: bool = False,
        non_blocking: bool = True,
    ) -> None:
        if channel_order not in ("bgr", "rgb"):
            raise UserError(f"data_preprocessor.channel_order is {channel_order!r}; set 'bgr' or 'rgb'.")
        super().__init__(mean=mean, std=std, non_blocking=non_blocking)
        self.size = size
        self.max_shift = max_shift
        self.online_shift = online_shift
        self.channel_order = channel_order
        self.color_jitter: dict[str, Any] = dict(color_jitter or {})
        self.gray_prob = gray_prob
        self.blur_prob = blur_prob
        self.blur_sigma = blur_sigma
        self.augment_online = augment_online
        self.capture = capture
        self.captured: CapturedViews | None = None
        self.generator: torch.Generator | None = None  # None: the device's own

    def forward(self, data: dict[str, Any], training: bool = False) -> dict[str, Any]:
        """Make the views.

        Args:
            data: ``inputs``: (N, 3, H, W) or a list of (3, H, W), BGR in [0, 255]; ``data_samples``
                if any.
            training: True makes both views; False one clean centre window.

        Returns:
            ``inputs``: ``[img, img_t]`` in training, else one tensor; ``data_samples`` as given.

        Raises:
            UserError: The images are too small for the window and its shift.
        """
        data = self.cast_data(data)
        master = data["inputs"]
        if isinstance(master, list | tuple):
            master = torch.stack(list(master))
        # Pixels need more digits than bfloat16 has, and mmengine calls this under autocast.
        with torch.no_grad(), torch.autocast(master.device.type, enabled=False):
            inputs = self.make_views(master) if training else self.center_view(master)
        return {"inputs": inputs, "data_samples": data.get("data_samples")}

    def make_views(self, master: Tensor) -> list[Tensor]:
        """Make ``[img, img_t]``, each (N, 3, size, size) and normalised, from master crops."""
        self._check_size(master, max(self.max_shift, self.online_shift))
        ordered = self._order_channels(master)
        img = self._window(ordered, self.online_shift)
        if self.augment_online:
            img = self.augment_colors(img)
        img_t = self.augment_colors(self._window(ordered, self.max_shift))
        views = [ops.normalize(view, self.mean, self.std) for view in (img, img_t)]
        if self.capture:
            self.captured = CapturedViews(master, *views)
        return views

    def center_view(self, images: Tensor) -> Tensor:
        """Normalise the centre window of each image, without any draw."""
        self._check_size(images, 0)
        top, left = ((side - self.size) // 2 for side in images.shape[-2:])
        window = images[..., top : top + self.size, left : left + self.size]
        return ops.normalize(self._order_channels(window).float(), self.mean, self.std)

    def augment_colors(self, images: Tensor) -> Tensor:
        """Jitter, grey and blur (N, 3, H, W) pixels in [0, 255], one draw for each sample."""
        draw: dict[str, Any] = {"generator": self.generator, "device": images.device}
        n = len(images)
        images = ops.color_jitter(images, ops.draw_jitter(n, **self.color_jitter, **draw))
        images = ops.grayscale(images, ops.draw_coins(n, self.gray_prob, **draw))
        sigma = ops.draw_sigmas(n, self.blur_sigma, **draw) * ops.draw_coins(n, self.blur_prob, **draw)
        radius = max(1, round(3 * self.blur_sigma[1]))
        return ops.gaussian_blur(images, sigma, radius)

    def to_pixels(self, images: Tensor) -> Tensor:
        """Undo the normalisation: network input to uint8 **RGB** pixels, for pictures."""
        pixels = (images * self.std + self.mean).round().clamp(0, ops.WHITE).to(torch.uint8)
        return pixels.flip(1) if self.channel_order == "bgr" else pixels

    def _window(self, master: Tensor, max_shift: int) -> Tensor:
        if max_shift == 0:
            return master[..., : self.size, : self.size].float()
        offsets = ops.draw_offsets(len(master), max_shift, self.generator, master.device)
        return ops.shift_crop(master, offsets, self.size).float()

    def _order_channels(self, images: Tensor) -> Tensor:
        return images.flip(1) if self.channel_order == "rgb" else images

    def _check_size(self, images: Tensor, shift: int) -> None:
        need = self.size + shift
        if min(images.shape[-2:]) < need:
            raise UserError(
                f"The data preprocessor got {images.shape[-2]} x {images.shape[-1]} images but needs "
                f"{need} x {need} (size {self.size} + shift {shift}); enlarge the pipeline's crop "
                "or lower max_shift."
            )
