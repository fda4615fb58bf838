"""Where views are cut from a master image: shift, crop and flip, for a whole batch on its device.

Pure functions. Images are (N, 3, H, W) float32 in [0, 255] unless said otherwise. Each sample has its own random draw;
drawing and applying are separate, so that tests and figures can set the draw. A ``draw_*`` function turns uniform
numbers (see `cmae_mm.pretrain.draws`) into parameters. Unlike Pillow, nothing is rounded to whole levels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

WHITE = 255.0
CROP_ATTEMPTS = 10
CROP_DRAWS = 2 * CROP_ATTEMPTS + 2  # area and aspect of each attempt, then the place


def draw_offsets(u: Tensor, max_shift: int) -> Tensor:
    """Turn (N, 2) uniforms into int64 offsets (down, right), each uniform in 0..max_shift **inclusive**."""
    # u is at most 1 - 2**-24: the product never rounds up to max_shift + 1.
    return (u * (max_shift + 1)).long()


def draw_coins(u: Tensor, prob: float) -> Tensor:
    """Turn (N,) uniforms into bool, each True with probability ``prob``."""
    return u < prob


def draw_crops(
    u: Tensor,
    aspect: Tensor,
    scale: tuple[float, float] = (0.2, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Tensor:
    """Draw boxes by the rule of torchvision's RandomResizedCrop.

    Ten attempts: an area, uniform, and an aspect ratio, uniform in its logarithm; the first box that fits is placed
    uniformly. If none fits, the largest centred box whose aspect ratio is allowed. Boxes are not rounded to pixels.

    Args:
        u: (N, `CROP_DRAWS`) uniforms.
        aspect: (N,) width / height of the image whose geometry counts. A master squashed to a square
            gets the boxes of the image that it was.
        scale: Range of the box's share of the area.
        ratio: Range of the box's width / height.

    Returns:
        (N, 4) float32: top, left, height, width, as shares of the image's height and width.
    """
    shape = aspect.float().unsqueeze(1)
    area = scale[0] + (scale[1] - scale[0]) * u[:, :CROP_ATTEMPTS]
    low, high = math.log(ratio[0]), math.log(ratio[1])
    form = torch.exp(low + (high - low) * u[:, CROP_ATTEMPTS : 2 * CROP_ATTEMPTS])
    sides = torch.stack([(area * shape / form).sqrt(), (area * form / shape).sqrt()], dim=2)  # height, width
    fits = (sides <= 1).all(dim=2)
    first = fits.long().argmax(dim=1)
    chosen = sides[torch.arange(len(u), device=u.device), first]
    largest = torch.cat([shape / ratio[0], ratio[1] / shape], dim=1).clamp_max(1)
    size = torch.where(fits.any(dim=1, keepdim=True), chosen, largest)
    place = torch.where(fits.any(dim=1, keepdim=True), u[:, 2 * CROP_ATTEMPTS :], 0.5)
    return torch.cat([(1 - size) * place, size], dim=1)


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


def hflip(images: Tensor, apply: Tensor) -> Tensor:
    """Mirror the chosen images left to right.

    Args:
        images: (N, C, H, W), any type.
        apply: (N,) bool.
    """
    return torch.where(apply.view(-1, 1, 1, 1), images.flip(-1), images)


def resize_matrix(start: Tensor, length: Tensor, pixels: int, size: int) -> Tensor:
    """Write 1-D bicubic resampling as matrices, with the weights of Pillow's ``Image.resize``.

    Keys' cubic with a = -0.5, widened by the scale when shrinking. Weights of pixels beyond the
    image are left out and the rest sums to 1; pixels beyond the box, but inside the image, count.

    Args:
        start: (N,) first edge of each box, in pixels.
        length: (N,) extent of each box, in pixels.
        pixels: Length of the signal.
        size: Length of the resampled signal.

    Returns:
        (N, pixels, size) float32; ``signal @ matrix`` is the resampled signal.
    """
    steps = torch.arange(size, device=start.device) + 0.5
    scale = (length / size).view(-1, 1, 1)
    centers = start.view(-1, 1, 1) + scale * steps
    places = (torch.arange(pixels, device=start.device) + 0.5).unsqueeze(1)
    x = ((places - centers) / scale.clamp_min(1)).abs_()
    near = (1.5 * x - 2.5) * x.square() + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    weights = torch.where(x < 1, near, far).masked_fill_(x >= 2, 0)
    return weights / weights.sum(dim=1, keepdim=True)


def resized_crop(images: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Cut a box out of each image and resample it, bicubic with antialiasing.

    Two batched matrix products, across then down as in Pillow, so that each sample has its own box.

    Args:
        images: (N, C, H, W) in [0, 255], any type.
        boxes: (N, 4) top, left, height, width as shares of the image, see :func:`draw_crops`.
        size: Side of the result.

    Returns:
        (N, C, size, size) float32 in [0, 255]; as Pillow, overshoots are cut after each direction.
    """
    n, channels, height, width = images.shape
    top, left, tall, wide = boxes.unbind(1)
    across = resize_matrix(left * width, wide * width, width, size)
    down = resize_matrix(top * height, tall * height, height, size)
    out = images.reshape(n, channels * height, width).float() @ across
    out = down.transpose(1, 2).unsqueeze(1) @ out.clamp_(0, WHITE).view(n, channels, height, size)
    return out.clamp_(0, WHITE)


def normalize(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Scale to network input: ``(images - mean) / std`` with (3, 1, 1) statistics on [0, 255]."""
    return (images - mean) / std
