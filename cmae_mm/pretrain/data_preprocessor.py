"""From uint8 master images to the normalised views of CMAE, Multi-View MAE and MAE, on the model's device."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from mmpretrain.registry import MODELS
from torch import Tensor

import cmae_mm.pretrain.colors as colors
import cmae_mm.pretrain.views as ops
from cmae_mm.errors import UserError
from cmae_mm.pretrain.draws import Stream
from cmae_mm.pretrain.view_preprocessor import Masters, ViewPreprocessor, check_choice, check_range

SHARED, FIRST, SECOND = (
    0,
    1,
    2,
)  # whose draws: both views', the online (first) view's, the target (second) view's
_JITTER_FIELDS = tuple(inspect.signature(colors.draw_jitter).parameters)[1:]


def check_crop(scale: Sequence[float], ratio: Sequence[float]) -> None:
    """Raise a `UserError` unless these ranges describe crops."""
    check_range("crop_scale", scale, 1e-6, 1)
    check_range("crop_ratio", ratio, 1e-6)


@MODELS.register_module()
class CMAEDataPreprocessor(ViewPreprocessor):
    """Pixel shift, colour augmentation and normalisation (CMAE, section 3.2; official pipeline).

    The online view is a window of the master, the target view a shifted window with colour augmentation.
    Both share one flip.

    The official code reads RGB, then swaps the channels while normalising with RGB statistics:
    the network sees BGR, and luma weighs blue as if it were red. Taking BGR masters as they are, as
    ``channel_order="bgr"`` does here, is the same thing.

    Args:
        size: Side of the views in pixels.
        spatial: ``"shift"`` cuts shifted windows; ``"crop"`` cuts each view by its own RandomResizedCrop of the
            master, what the paper compares the shift with.
        max_shift: Largest shift of the target view in pixels, inclusive, down and right.
        online_shift: Largest shift of the online view; 0 fixes it at the top-left corner.
        flip: ``"before"`` flips the master, then cuts (released code); ``"after"`` cuts, then flips both views
            (the authors' words in issue 7 of their repository).
        flip_prob: Probability of the flip.
        channel_order: Order of the network's input channels.
        color_jitter: Strengths ``brightness``, ``contrast``, ``saturation``, ``hue`` and ``prob``.
        gray_prob: Probability of a grey image.
        blur_prob: Probability of a Gaussian blur.
        blur_sigma: Range of the blur's width in pixels.
        color_on: Which views get the colour augmentation, each its own draw: ``"target"`` (CMAE), ``"online"``,
            ``"both"`` or ``"none"``.
        crop_scale: Range of a crop's share of the master's area, with ``spatial="crop"``.
        crop_ratio: Range of a crop's width / height, with ``spatial="crop"``.
        **kwargs: ``mean``, ``std``, ``capture`` and ``non_blocking``, see `ViewPreprocessor`.

    Raises:
        UserError: A field has a value that means nothing.
    """

    view_names: ClassVar[tuple[str, ...]] = ("online view", "target view")

    def __init__(
        self,
        size: int = 224,
        spatial: Literal["shift", "crop"] = "shift",
        max_shift: int = 31,
        online_shift: int = 0,
        flip: Literal["before", "after"] = "before",
        flip_prob: float = 0.5,
        channel_order: Literal["bgr", "rgb"] = "bgr",
        color_jitter: dict[str, float] | None = None,
        gray_prob: float = 0.2,
        blur_prob: float = 0.5,
        blur_sigma: tuple[float, float] = (0.1, 2.0),
        color_on: Literal["target", "online", "both", "none"] = "target",
        crop_scale: tuple[float, float] = (0.2, 1.0),
        crop_ratio: tuple[float, float] = (3 / 4, 4 / 3),
        **kwargs: Any,
    ) -> None:
        check_choice("spatial", spatial, ("shift", "crop"))
        check_choice("flip", flip, ("before", "after"))
        check_choice("color_on", color_on, ("target", "online", "both", "none"))
        check_crop(crop_scale, crop_ratio)
        check_range("blur_sigma", blur_sigma, 0)
        for field, value in (("max_shift", max_shift), ("online_shift", online_shift)):
            check_range(field, (value,), 0)
        for field, prob in (("gray_prob", gray_prob), ("blur_prob", blur_prob)):
            check_range(field, (prob,), 0, 1)
        super().__init__(size, flip_prob, channel_order, **kwargs)
        self.spatial = spatial
        self.max_shift = max_shift
        self.online_shift = online_shift
        self.flip_order = flip
        self.color_jitter = _checked_jitter(color_jitter or {})
        self.gray_prob = gray_prob
        self.blur_prob = blur_prob
        self.blur_sigma = blur_sigma
        self.color_on = color_on
        self.crop_scale = crop_scale
        self.crop_ratio = crop_ratio

    def make_views(self, masters: Masters) -> list[Tensor]:
        """Make ``[img, img_t]``, each (N, 3, size, size) float in [0, 255]."""
        if self.spatial == "shift":
            shift = max(self.max_shift, self.online_shift)
            self.check_size(masters.images, self.size + shift, f"size {self.size} + shift {shift}")
        if self.flip_order == "before":
            masters = masters._replace(images=self.flip(masters.images, masters, SHARED))
        views = []
        for view, limit in ((FIRST, self.online_shift), (SECOND, self.max_shift)):
            if self.spatial == "crop":
                image = ops.resized_crop(masters.images, self._draw_box(masters, view), self.size)
            else:
                image = self._shift(masters, view, limit)
            if self.flip_order == "after":
                image = self.flip(image, masters, SHARED)
            image = image.float()
            if self.color_on in ("both", "online" if view == FIRST else "target"):
                image = self.augment_colors(image, masters, view)
            views.append(image)
        return views

    def find_boxes(self, masters: Masters) -> list[Tensor]:
        """Say where both views are cut."""
        height, width = masters.images.shape[-2:]
        boxes = []
        for view, limit in ((FIRST, self.online_shift), (SECOND, self.max_shift)):
            if self.spatial == "crop":
                box = self._draw_box(masters, view)
            else:
                offsets = self._draw_offsets(masters, view, limit)
                pixels = torch.cat([offsets, torch.full_like(offsets, self.size)], dim=1)
                box = pixels / torch.tensor([height, width] * 2, device=pixels.device)
            if self.flip_order == "before":  # cut from the mirrored master
                mirrored = self.draw_flips(masters, SHARED)
                box[:, 1] = torch.where(mirrored, 1 - box[:, 1] - box[:, 3], box[:, 1])
            boxes.append(box)
        return boxes

    def augment_colors(self, images: Tensor, masters: Masters, view: int) -> Tensor:
        """Jitter, grey and blur (N, 3, H, W) pixels in [0, 255], one draw for each sample."""
        if self.color_jitter.get("prob", 1) > 0:
            u = masters.draw(Stream.JITTER, view, colors.JITTER_DRAWS)
            images = colors.color_jitter(images, colors.draw_jitter(u, **self.color_jitter))
        if self.gray_prob > 0:
            u = masters.draw(Stream.GRAY, view, 1)
            images = colors.grayscale(images, ops.draw_coins(u[:, 0], self.gray_prob))
        if self.blur_prob > 0:
            u = masters.draw(Stream.BLUR, view, 2)
            sigma = colors.draw_sigmas(u[:, 0], self.blur_sigma) * ops.draw_coins(u[:, 1], self.blur_prob)
            images = colors.gaussian_blur(images, sigma, max(1, round(3 * self.blur_sigma[1])))
        return images

    def _shift(self, masters: Masters, view: int, limit: int) -> Tensor:
        if limit == 0:
            return masters.images[..., : self.size, : self.size]
        offsets = self._draw_offsets(masters, view, limit)
        return ops.shift_crop(masters.images, offsets, self.size)

    def _draw_offsets(self, masters: Masters, view: int, limit: int) -> Tensor:
        return ops.draw_offsets(masters.draw(Stream.SHIFT, view, 2), limit)

    def _draw_box(self, masters: Masters, view: int) -> Tensor:
        return draw_view_boxes(masters, view, self.crop_scale, self.crop_ratio)


def _checked_jitter(strengths: dict[str, float]) -> dict[str, float]:
    for field, value in strengths.items():
        if field not in _JITTER_FIELDS:
            names = ", ".join(_JITTER_FIELDS)
            raise UserError(f"data_preprocessor.color_jitter has no field {field!r}; the fields are {names}.")
        check_range(f"color_jitter.{field}", (value,), 0, {"prob": 1, "hue": 0.5}.get(field, float("inf")))
    return dict(strengths)


def draw_view_boxes(
    masters: Masters, view: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> Tensor:
    """Draw the RandomResizedCrop of one view: (N, 4), see :func:`cmae_mm.pretrain.views.draw_crops`."""
    u = masters.draw(Stream.CROP, view, ops.CROP_DRAWS)
    return ops.draw_crops(u, masters.aspect, scale, ratio)


@MODELS.register_module()
class MultiViewDataPreprocessor(ViewPreprocessor):
    """Two views by crop and flip only, for Multi-View MAE (Ji, Han and Rhee 2023, section 3.1.1).

    Each view is its own RandomResizedCrop of the whole image, with its own flip; there is no colour augmentation.

    Args:
        size: Side of the views in pixels.
        two_targets: False gives one crop twice (the same tensor): both masked inputs then have one
            common target, the paper's ablation.
        crop_scale: Range of a crop's share of the image's area.
        crop_ratio: Range of a crop's width / height.
        flip_prob: Probability of the flip of a view.
        channel_order: Order of the network's input channels.
        **kwargs: ``mean``, ``std``, ``capture`` and ``non_blocking``, see `ViewPreprocessor`.

    Raises:
        UserError: A field has a value that means nothing.
    """

    view_names: ClassVar[tuple[str, ...]] = ("first view", "second view")
    masked_views: ClassVar[int] = 2

    def __init__(
        self,
        size: int = 224,
        two_targets: bool = True,
        crop_scale: tuple[float, float] = (0.2, 1.0),
        crop_ratio: tuple[float, float] = (3 / 4, 4 / 3),
        flip_prob: float = 0.5,
        channel_order: Literal["bgr", "rgb"] = "rgb",
        **kwargs: Any,
    ) -> None:
        check_crop(crop_scale, crop_ratio)
        super().__init__(size, flip_prob, channel_order, **kwargs)
        self.two_targets = two_targets
        self.crop_scale = crop_scale
        self.crop_ratio = crop_ratio

    def make_views(self, masters: Masters) -> list[Tensor]:
        """Make one or both views, each (N, 3, size, size) float in [0, 255]."""
        views = []
        for view, boxes in zip((FIRST, SECOND), self.find_boxes(masters), strict=False):
            image = ops.resized_crop(masters.images, boxes, self.size)
            views.append(self.flip(image, masters, view))
        return views

    def find_boxes(self, masters: Masters) -> list[Tensor]:
        """Draw where one or both views are cut."""
        chosen = (FIRST, SECOND)[: 1 + self.two_targets]
        return [draw_view_boxes(masters, view, self.crop_scale, self.crop_ratio) for view in chosen]

    def pack_views(self, views: list[Tensor]) -> list[Tensor]:
        """Give two views, or one twice."""
        return [views[0], views[-1]]


@MODELS.register_module()
class SingleViewDataPreprocessor(ViewPreprocessor):
    """One view by flip and normalisation, for MAE: the loader has cropped already.

    ``inputs`` of the result is one tensor. For the arguments see `ViewPreprocessor`.
    """

    view_names: ClassVar[tuple[str, ...]] = ("view",)

    def make_views(self, masters: Masters) -> list[Tensor]:
        """Make the view, (N, 3, size, size) float in [0, 255].

        Raises:
            UserError: The images do not have the side ``size``.
        """
        height, width = masters.images.shape[-2:]
        if (height, width) != (self.size, self.size):
            raise UserError(
                f"The data preprocessor got {height} x {width} images but its size is {self.size}; "
                f"let the pipeline crop to {self.size}."
            )
        return [self.flip(masters.images, masters, FIRST).float()]

    def find_boxes(self, masters: Masters) -> list[Tensor]:
        """Give the whole image."""
        return [masters.aspect.new_tensor([0.0, 0.0, 1.0, 1.0]).expand(len(masters.images), 4)]

    def pack_views(self, views: list[Tensor]) -> Tensor:
        """Give the one view."""
        return views[0]
