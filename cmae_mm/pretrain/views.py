"""Views of a master image, made for a whole batch on its device.

Pure functions. Images are (N, 3, H, W) float32 in [0, 255] unless said otherwise, and channel 0
is treated as red. Each sample has its own random draw; drawing and applying are separate, so that
tests and figures can set the draw. Unlike the Pillow operations of the official pipeline, nothing is rounded to
whole levels between operations.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as Pillow and torchvision use
WHITE = 255.0


class Jitter(NamedTuple):
    """One colour jitter for each of N images.

    Attributes:
        brightness: (N,) factor, 1 = unchanged.
        contrast: (N,) factor.
        saturation: (N,) factor.
        hue: (N,) shift in turns of the colour circle, 0 = unchanged.
        order: (N, 4) int64, a permutation: entry k is the operation applied k-th
            (0 brightness, 1 contrast, 2 saturation, 3 hue).
        apply: (N,) bool, False leaves the image as it is.
    """

    brightness: Tensor
    contrast: Tensor
    saturation: Tensor
    hue: Tensor
    order: Tensor
    apply: Tensor


def _uniform(n: int, low: float, high: float, generator: torch.Generator | None, device: object) -> Tensor:
    draw = torch.rand(n, generator=generator, device=device)  # type: ignore[call-overload]
    return low + (high - low) * draw


def draw_offsets(
    n: int, max_shift: int, generator: torch.Generator | None = None, device: torch.device | str | None = None
) -> Tensor:
    """Draw (N, 2) int64 offsets (down, right), each uniform in 0..max_shift **inclusive**."""
    return torch.randint(0, max_shift + 1, (n, 2), generator=generator, device=device)


def draw_coins(
    n: int, prob: float, generator: torch.Generator | None = None, device: torch.device | str | None = None
) -> Tensor:
    """Draw (N,) bool, each True with probability ``prob``."""
    return torch.rand(n, generator=generator, device=device) < prob


def draw_sigmas(
    n: int,
    sigma: tuple[float, float],
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Draw (N,) blur widths in pixels, uniform between the two ends of ``sigma``."""
    return _uniform(n, sigma[0], sigma[1], generator, device)


def draw_jitter(
    n: int,
    brightness: float = 0.4,
    contrast: float = 0.4,
    saturation: float = 0.4,
    hue: float = 0.1,
    prob: float = 0.8,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> Jitter:
    """Draw colour jitters: factors in 1 +- strength, hue in +-hue turns, random order."""
    return Jitter(
        _uniform(n, max(0.0, 1 - brightness), 1 + brightness, generator, device),
        _uniform(n, max(0.0, 1 - contrast), 1 + contrast, generator, device),
        _uniform(n, max(0.0, 1 - saturation), 1 + saturation, generator, device),
        _uniform(n, -hue, hue, generator, device),
        torch.rand(n, 4, generator=generator, device=device).argsort(dim=1),
        draw_coins(n, prob, generator, device),
    )


def shift_crop(master: Tensor, offsets: Tensor, size: int) -> Tensor:
    """Cut one window from each master image: the pixel shift of CMAE (section 3.2).

    Args:
        master: (N, C, H, W), any type.
        offsets: (N, 2) int64, top and left of each window.
        size: Side of the windows.

    Returns:
        (N, C, size, size), a copy.
    """
    # `unfold` is a strided view of all windows; the indexing picks one for each sample in one kernel.
    windows = master.unfold(2, size, 1).unfold(3, size, 1)
    return windows[torch.arange(len(master), device=master.device), :, offsets[:, 0], offsets[:, 1]]


def luminance(images: Tensor) -> Tensor:
    """Weigh the channels to grey: (N, 3, H, W) -> (N, 1, H, W)."""
    red, green, blue = images.unbind(1)
    return (LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue).unsqueeze(1)


def grayscale(images: Tensor, apply: Tensor) -> Tensor:
    """Make the chosen images grey, keeping three channels.

    Args:
        images: (N, 3, H, W).
        apply: (N,) bool.
    """
    return torch.where(apply.view(-1, 1, 1, 1), luminance(images), images)


def shift_hue(images: Tensor, turns: Tensor) -> Tensor:
    """Turn every colour on the HSV circle, keeping saturation and value.

    Args:
        images: (N, 3, H, W).
        turns: (N,) in [-0.5, 0.5].
    """
    value, top = images.max(dim=1, keepdim=True)
    chroma = value - images.amin(dim=1, keepdim=True)
    red, green, blue = images.split(1, dim=1)
    safe = torch.where(chroma == 0, torch.ones_like(chroma), chroma)
    sector = torch.where(top == 0, (green - blue) / safe, 2 + (blue - red) / safe)
    sector = torch.where(top == 2, 4 + (red - green) / safe, sector)  # in sixths of a turn
    # HSV to RGB in closed form: channel n is value - chroma * clamp(min(k, 4 - k), 0, 1).
    phase = torch.tensor([5.0, 3.0, 1.0], device=images.device, dtype=images.dtype).view(1, 3, 1, 1)
    k = (sector + 6 * turns.view(-1, 1, 1, 1) + phase).remainder(6)
    return value - chroma * torch.minimum(k, 4 - k).clamp(0, 1)


def color_jitter(images: Tensor, jitter: Jitter) -> Tensor:
    """Apply brightness, contrast, saturation and hue in each sample's own order.

    The first three are blends with a reference (black, mean grey, grey). They run in three slots
    before and three slots after the hue shift; a slot that is not a sample's own blends with factor 1. So
    the costly hue shift is computed once and no sample is treated in a loop.
    """
    slots = torch.arange(3, device=images.device)
    hue_at = (jitter.order == 3).long().argmax(dim=1, keepdim=True)
    early = slots < hue_at  # (N, 3): does this blend come before the hue shift?
    blends = jitter.order.gather(1, slots + (~early).long())
    factors = torch.stack([jitter.brightness, jitter.contrast, jitter.saturation], 1).gather(1, blends)
    one = torch.ones_like(factors)

    out = _blend_slots(images, blends, torch.where(early, factors, one))
    out = shift_hue(out, jitter.hue)
    out = _blend_slots(out, blends, torch.where(early, one, factors))
    return torch.where(jitter.apply.view(-1, 1, 1, 1), out, images)


def _blend_slots(images: Tensor, blends: Tensor, factors: Tensor) -> Tensor:
    """Blend three times with black (0), mean grey (1) or grey (2), as (N, 3) ``blends`` says."""
    for kind, factor in zip(blends.unbind(1), factors.unbind(1), strict=True):
        kind, factor = kind.view(-1, 1, 1, 1), factor.view(-1, 1, 1, 1)
        grey = luminance(images)
        reference = torch.where(kind == 1, grey.mean(dim=(2, 3), keepdim=True), grey)
        reference = torch.where(kind == 0, torch.zeros_like(grey), reference)
        images = torch.lerp(reference.expand_as(images), images, factor.expand_as(images)).clamp(0, WHITE)
    return images


def blur_matrix(sigma: Tensor, size: int, radius: int) -> Tensor:
    """Write a 1-D Gaussian blur with replicated borders as matrices.

    Args:
        sigma: (N,) width in pixels; 0 gives the identity.
        size: Length of the signal.
        radius: The kernel reaches this many pixels to each side.

    Returns:
        (N, size, size); ``signal @ matrix`` is the blurred signal.
    """
    steps = torch.arange(-radius, radius + 1, device=sigma.device, dtype=sigma.dtype)
    width = sigma.clamp_min(1e-3).view(-1, 1)  # exp underflows to a clean identity
    kernel = torch.softmax(-0.5 * (steps / width).square(), dim=1)
    target = torch.arange(size, device=sigma.device)
    source = (target.view(-1, 1) + steps.long()).clamp(0, size - 1)
    matrix = sigma.new_zeros(len(sigma), size, size)
    return matrix.scatter_add_(
        1, source.t().expand(len(sigma), -1, -1), kernel.unsqueeze(2).expand(-1, -1, size)
    )


def gaussian_blur(images: Tensor, sigma: Tensor, radius: int = 6) -> Tensor:
    """Blur each image with its own width.

    Two batched matrix products, rows then columns: every sample keeps its own kernel, borders
    included, and a width of 0 leaves an image as it is.

    Args:
        images: (N, 3, H, W).
        sigma: (N,) in pixels.
        radius: Kernel reach; 6 is three times the widest sigma in use.
    """
    n, channels, height, width = images.shape
    across = images.reshape(n, channels * height, width) @ blur_matrix(sigma, width, radius)
    down = blur_matrix(sigma, height, radius).transpose(1, 2).unsqueeze(1)
    return down @ across.view(n, channels, height, width)


def normalize(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Scale to network input: ``(images - mean) / std`` with (3, 1, 1) statistics on [0, 255]."""
    return (images - mean) / std
