"""What segmentation scores are counted from, batched on the device. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def confusion_matrices(
    predicted: Sequence[Tensor], truth: Sequence[Tensor], classes: int, ignore_index: int = 255
) -> Tensor:
    """Count pairs of true and predicted class in each image, all images at once.

    Args:
        predicted: Label map of each image, (H, W) integers; sizes may differ.
        truth: As many label maps of the same sizes.
        classes: K.
        ignore_index: Pixels with this true label do not count.

    Returns:
        (N, K + 1, K + 1) int64, [n, t, p] counts pixels of true class t that were given class p. The last row and
        column hold labels that are no class: K or above.
    """
    bins, count = classes + 1, len(truth)
    sizes = torch.tensor([t.numel() for t in truth], device=truth[0].device)
    image = torch.arange(count, device=sizes.device).repeat_interleave(
        sizes, output_size=sum(map(_size, truth))
    )
    true = torch.cat([t.reshape(-1) for t in truth]).long()
    given = torch.cat([p.reshape(-1) for p in predicted]).long().clamp_(max=classes)
    cell = (image * bins + true.clamp(max=classes)) * bins + given
    cell[true == ignore_index] = (
        count * bins * bins
    )  # one more cell, thrown away: cheaper than choosing pixels
    found = torch.bincount(cell, minlength=count * bins * bins + 1)
    return found[:-1].view(count, bins, bins)


def _size(labels: Tensor) -> int:
    return labels.numel()


def boundary_width(height: int, width: int, ratio: float) -> int:
    """Width of the band along a boundary in pixels: the rounded share of the image's diagonal, at least 1."""
    return max(1, round(ratio * math.hypot(height, width)))


def inner_boundary(labels: Tensor, distance: int) -> Tensor:
    """Mark the pixels that lie near the edge of their own segment.

    A pixel is marked if another label, or the outside of the image, lies at most ``distance`` away in the
    maximum norm. For the binary mask of each label this is the mask minus itself eroded ``distance``
    times by a 3 x 3 square, with zeros outside, as in the code of Boundary IoU. Here all labels are done at once:
    a pixel is inside where no two neighbours in its window differ. Differences to the right and below are noted at
    the upper left pixel of a pair, so a window of 2d x 2d notes covers all pixels but the last corner.

    Args:
        labels: (B, H, W) integers from 0 to 32766.
        distance: In pixels.

    Returns:
        (B, H, W) boolean.
    """
    framed = F.pad(labels.to(torch.int16), (distance,) * 4, value=-1)
    here = framed[:, :-1, :-1]
    differs = (here != framed[:, :-1, 1:]) | (here != framed[:, 1:, :-1])
    for dim in (-1, -2):
        differs = _window_any(differs, 2 * distance, dim)
    return differs | (framed[:, 2 * distance :, 2 * distance :] != labels)


def _window_any(marked: Tensor, width: int, dim: int) -> Tensor:
    """Whether each window along an axis has a mark; doubling takes log2(width) passes instead of width."""
    span = 1
    while span < width:
        step = min(span, width - span)
        left = marked.shape[dim] - step
        marked = marked.narrow(dim, 0, left) | marked.narrow(dim, step, left)
        span += step
    return marked


def boundary_areas(
    predicted: Tensor, truth: Tensor, classes: int, ratio: float = 0.02, ignore_index: int = 255
) -> Tensor:
    """Count the pixels that Boundary IoU is made of (Cheng et al., arXiv 2103.16562, section 4).

    For each class, the boundary of a label map is the part of the class that lies within d pixels of what is not the
    class; d is ``ratio`` times the diagonal. Void is "not the class" in both maps: a prediction counts as void where
    the truth is void.

    Args:
        predicted: (B, H, W) integers.
        truth: (B, H, W) integers.
        classes: K.
        ratio: Dilation ratio; in the code of its authors 0.02, and 0.005 for Cityscapes.
        ignore_index: True label of void.

    Returns:
        (B, 3, K) int64: pixels of each class in both boundaries, in the predicted one, in the true one.
    """
    distance = boundary_width(truth.shape[1], truth.shape[2], ratio)
    void = truth == ignore_index
    maps = torch.stack((predicted, truth)).to(torch.int16).clamp_(max=classes).masked_fill_(void, classes + 1)
    given, true = maps
    near_given, near_true = inner_boundary(maps.flatten(0, 1), distance).view_as(maps)
    marked = torch.stack((near_given & near_true & (given == true), near_given, near_true), dim=1)
    labels = torch.stack((true, given, true), dim=1)
    rows = torch.arange(3 * len(truth), device=truth.device, dtype=torch.int32).view(-1, 3, 1, 1)
    bins = classes + 2
    cell = (rows * bins + labels)[marked]
    found = torch.bincount(cell, minlength=3 * len(truth) * bins)
    return found.view(-1, 3, bins)[..., :classes]
