"""How views are recoloured: jitter, grey and blur, for a whole batch on its device.

Pure functions on (N, 3, H, W) float32 images in [0, 255]; channel 0 is treated as red. Drawing and applying are
separate, as in `cmae_mm.pretrain.views`. Unlike Pillow, nothing is rounded to whole levels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from cmae_mm.pretrain.views import WHITE

LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as Pillow and torchvision use
JITTER_DRAWS = 9  # four strengths, whether at all, order


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


def draw_sigmas(u: Tensor, sigma: tuple[float, float]) -> Tensor:
    """Turn (N,) uniforms into blur widths in pixels, uniform between the two ends of ``sigma``."""
    return sigma[0] + (sigma[1] - sigma[0]) * u


def draw_jitter(
    u: Tensor,
    brightness: float = 0.4,
    contrast: float = 0.4,
    saturation: float = 0.4,
    hue: float = 0.1,
    prob: float = 0.8,
) -> Jitter:
    """Turn (N, `JITTER_DRAWS`) uniforms into jitters.

    Factors are uniform in 1 +- strength and not below 0, hue in +-hue turns, each of the 24 orders is as likely.
    """
    factors = []
    for i, strength in enumerate((brightness, contrast, saturation)):
        low = max(0.0, 1 - strength)
        factors.append(low + (1 + strength - low) * u[:, i])
    order = u[:, 5:JITTER_DRAWS].argsort(dim=1, stable=True)  # equal numbers must not depend on the device
    return Jitter(factors[0], factors[1], factors[2], hue * (2 * u[:, 3] - 1), order, u[:, 4] < prob)


def luminance(images: Tensor) -> Tensor:
    """Weigh the channels to grey: (N, 3, H, W) -> (N, 1, H, W)."""
    red, green, blue = images.split(1, dim=1)
    return (LUMA[0] * red).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])


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
        turns: (N,) in turns.
    """
    red, green, blue = images.split(1, dim=1)
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    unit = chroma.clamp_min(1e-6).reciprocal_()  # grey has no hue: 0 / 1e-6 is any
    # Where the colour stands, in sixths of a turn from red.
    sector = torch.where(value == green, (blue - red).mul_(unit).add_(2), (red - green).mul_(unit).add_(4))
    sector = torch.where(value == red, (green - blue).mul_(unit), sector)
    # HSV to RGB in closed form: channel n is value - chroma * clamp(2 - |k - 2|, 0, 1).
    phase = 5.0 - 2 * torch.arange(3, device=images.device)
    k = (sector + (phase.view(-1, 1, 1) + 6 * turns.view(-1, 1, 1, 1))).remainder_(6)
    share = k.sub_(2).abs_().neg_().add_(2).clamp_(0, 1)
    return torch.addcmul(value, share, chroma, value=-1)


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

    out = _blend_slots(images, blends, factors.where(early, 1.0))
    out = shift_hue(out, jitter.hue)
    out = _blend_slots(out, blends, factors.where(~early, 1.0))
    return torch.where(jitter.apply.view(-1, 1, 1, 1), out, images)


def _blend_slots(images: Tensor, blends: Tensor, factors: Tensor) -> Tensor:
    """Blend three times with black (0), mean grey (1) or grey (2), as (N, 3) ``blends`` says."""
    for kind, factor in zip(blends.unbind(1), factors.unbind(1), strict=True):
        kind, factor = kind.view(-1, 1, 1, 1), factor.view(-1, 1, 1, 1)
        grey = luminance(images)
        # Rows first, then in float64: the same figure for a sample alone and in a batch.
        mean = grey.mean(dim=3, keepdim=True).double().mean(dim=2, keepdim=True).float()
        reference = torch.addcmul(mean * (1 - factor) * (kind == 1), grey, (1 - factor) * (kind == 2))
        images = torch.addcmul(reference, images, factor).clamp_(0, WHITE)
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
    # The half that reaches right, and a zero for all that is farther away.
    kernel = F.pad(torch.softmax(-0.5 * (steps / width).square(), dim=1)[:, radius:], (0, 1))
    beyond = kernel.sum(dim=1, keepdim=True) - kernel.cumsum(dim=1)  # what a border pixel stands in for
    places = torch.arange(size, device=sigma.device)
    distance = (places.view(-1, 1) - places).abs().clamp_max(radius + 1)
    matrix = kernel[:, distance]
    matrix[:, 0] += beyond[:, distance[0]]
    matrix[:, -1] += beyond[:, distance[-1]]
    return matrix


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
