"""What all data preprocessors of pretraining share: from a loader's batch to normalised views."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from mmpretrain.models import SelfSupDataPreprocessor
from torch import Tensor

import cmae_mm.pretrain.views as ops
from cmae_mm.errors import UserError
from cmae_mm.pretrain.colors import JITTER_DRAWS
from cmae_mm.pretrain.draws import Stream, uniform_table

_COLUMNS = max(ops.CROP_DRAWS, JITTER_DRAWS)  # as many numbers as any one purpose takes
IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)


class Masters(NamedTuple):
    """One batch on the device, channels in the network's order.

    Attributes:
        images: (N, 3, H, W), as the loader gave it, mostly uint8.
        numbers: (N, S, C) uniforms of each sample's key, see `uniform_table`; all draws come from them.
        aspect: (N,) float32, width / height of the image that the master shows.
    """

    images: Tensor
    numbers: Tensor
    aspect: Tensor

    def draw(self, purpose: Stream, view: int, count: int) -> Tensor:
        """Give the (N, count) uniforms of one purpose for one view (0: for what the views share)."""
        return self.numbers[:, purpose.of(view), :count]


class CapturedViews(NamedTuple):
    """What the last training batch looked like.

    Attributes:
        master: (N, 3, H, W) as the loader gave it, BGR.
        keys: (N,) int64, the draw keys.
        boxes: Where each view was cut: (N, 4) top, left, height, width as shares of the master.
        views: Each (N, 3, size, size), normalised, in the network's channel order.
    """

    master: Tensor
    keys: Tensor
    boxes: tuple[Tensor, ...]
    views: tuple[Tensor, ...]


def check_choice(field: str, value: str, choices: Sequence[str]) -> None:
    """Raise a `UserError` unless a field of the data preprocessor has one of its values."""
    if value not in choices:
        names = ", ".join(repr(choice) for choice in choices)
        raise UserError(f"data_preprocessor.{field} is {value!r}; set one of {names}.")


def check_range(field: str, values: Sequence[float], low: float, high: float = float("inf")) -> None:
    """Raise a `UserError` unless the values rise within [low, high]."""
    ordered = [low, *values, high]
    if any(not a <= b for a, b in pairwise(ordered)):
        shown = values[0] if len(values) == 1 else tuple(values)
        top = "" if high == float("inf") else f" and at most {high:g}"
        rising = "" if len(values) == 1 else ", smaller one first"
        raise UserError(f"data_preprocessor.{field} is {shown}; give at least {low:g}{top}{rising}.")


class ViewPreprocessor(SelfSupDataPreprocessor):
    """Casts, stacks and orders; subclasses make the views of a training batch.

    A training batch is a dict: ``inputs``, uint8 (N, 3, H, W) BGR master images (OpenMMLab's default), not
    flipped; ``draw_key``, (N,) int64, if the views shall depend on the sample alone; ``aspect``,
    (N,) float, width / height of the original where the master is a whole image squashed to a square;
    ``data_samples`` if any. In evaluation the centre window is normalised and nothing is drawn.

    Args:
        size: Side of the views in pixels.
        flip_prob: Probability of a horizontal flip.
        channel_order: Order of the network's input channels.
        mean: Per input channel, on [0, 255].
        std: Per input channel, on [0, 255].
        capture: Keep the last training batch in ``captured``, for pictures.
        non_blocking: Copy to the device without waiting.
    """

    view_names: ClassVar[tuple[str, ...]]  # in the order of the views
    masked_views: ClassVar[int] = 1  # so many, from the first, are masked and reconstructed

    def __init__(
        self,
        size: int = 224,
        flip_prob: float = 0.5,
        channel_order: Literal["bgr", "rgb"] = "rgb",
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        capture: bool = False,
        non_blocking: bool = True,
    ) -> None:
        check_choice("channel_order", channel_order, ("bgr", "rgb"))
        check_range("size", (size,), 1)
        check_range("flip_prob", (flip_prob,), 0, 1)
        super().__init__(mean=mean, std=std, non_blocking=non_blocking)
        self.size = size
        self.flip_prob = flip_prob
        self.channel_order = channel_order
        self.capture = capture
        self.captured: CapturedViews | None = None
        self.generator: torch.Generator | None = None  # of keys that no loader gave; None: the device's own

    def forward(self, data: dict[str, Any], training: bool = False) -> dict[str, Any]:
        """Make the views.

        Args:
            data: See the class; ``inputs`` may be a list of (3, H, W).
            training: True makes the views; False one clean centre window.

        Returns:
            ``inputs``: the views in training, else one tensor; ``data_samples`` as given.

        Raises:
            UserError: The images are too small for what is cut from them.
        """
        data = self.cast_data(data)
        images = data["inputs"]
        if isinstance(images, list | tuple):
            images = torch.stack(list(images))
        # Pixels need more digits than bfloat16 has, and mmengine calls this under autocast.
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            inputs = self._training_views(images, data) if training else self.center_view(images)
        return {"inputs": inputs, "data_samples": data.get("data_samples")}

    def make_views(self, masters: Masters) -> list[Tensor]:
        """Make the views, each (N, 3, size, size) float in [0, 255], not normalised."""
        raise NotImplementedError

    def find_boxes(self, masters: Masters) -> list[Tensor]:
        """Say where each view is cut from the master as the loader gave it, see `CapturedViews`."""
        raise NotImplementedError

    def pack_views(self, views: list[Tensor]) -> Tensor | list[Tensor]:
        """Give normalised views as the algorithm takes them: a list."""
        return views

    def center_view(self, images: Tensor) -> Tensor:
        """Normalise the centre window of each image, without any draw."""
        self.check_size(images, self.size, "size")
        top, left = ((side - self.size) // 2 for side in images.shape[-2:])
        window = images[..., top : top + self.size, left : left + self.size]
        return ops.normalize(self._order_channels(window).float(), self.mean, self.std)

    def to_pixels(self, images: Tensor) -> Tensor:
        """Undo the normalisation: network input to uint8 **RGB** pixels, for pictures."""
        pixels = (images * self.std + self.mean).round().clamp(0, ops.WHITE).to(torch.uint8)
        return pixels.flip(1) if self.channel_order == "bgr" else pixels

    def flip(self, images: Tensor, masters: Masters, view: int) -> Tensor:
        """Mirror images by the coins of one view (0: of what the views share)."""
        return images if self.flip_prob == 0 else ops.hflip(images, self.draw_flips(masters, view))

    def draw_flips(self, masters: Masters, view: int) -> Tensor:
        """Draw (N,) bool: which images of a view (0: of both) are mirrored."""
        return ops.draw_coins(masters.draw(Stream.FLIP, view, 1)[:, 0], self.flip_prob)

    def check_size(self, images: Tensor, need: int, why: str) -> None:
        """Raise a `UserError` if images are smaller than ``need``."""
        if min(images.shape[-2:]) < need:
            raise UserError(
                f"The data preprocessor got {images.shape[-2]} x {images.shape[-1]} images but needs "
                f"{need} x {need} ({why}); enlarge the pipeline's crop or lower these fields."
            )

    def _training_views(self, images: Tensor, data: dict[str, Any]) -> Tensor | list[Tensor]:
        keys = self._per_sample(data, "draw_key", len(images), images.device)
        if keys is None:
            top = torch.iinfo(torch.int64).max
            keys = torch.randint(top, (len(images),), generator=self.generator, device=images.device)
        keys = keys.long()
        aspect = self._per_sample(data, "aspect", len(images), images.device)
        if aspect is None:
            aspect = torch.full((len(images),), images.shape[-1] / images.shape[-2], device=images.device)
        masters = Masters(self._order_channels(images), uniform_table(keys, _COLUMNS), aspect.float())
        views = [ops.normalize(view, self.mean, self.std) for view in self.make_views(masters)]
        if self.capture:
            boxes = self.find_boxes(masters)
            self.captured = CapturedViews(images, keys, tuple(boxes), tuple(views))
        return self.pack_views(views)

    def _order_channels(self, images: Tensor) -> Tensor:
        return images.flip(1) if self.channel_order == "rgb" else images

    @staticmethod
    def _per_sample(data: dict[str, Any], field: str, n: int, device: torch.device) -> Tensor | None:
        """Read an optional number of each sample: a tensor, or a list as `pseudo_collate` makes it."""
        if data.get(field) is None:
            return None
        values = torch.as_tensor(data[field], device=device).flatten()
        if len(values) != n:
            raise UserError(
                f"The batch has {n} images but {len(values)} values of {field}; let the pipeline give one each."
            )
        return values
