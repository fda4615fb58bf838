"""mmseg's UPerHead with the same numbers for a part of the work: maps are mixed before they are enlarged."""

from __future__ import annotations

import functools
import operator

import torch
import torch.nn.functional as F
from mmseg.models import UPerHead
from mmseg.models.utils import resize
from mmseg.registry import MODELS
from torch import Tensor


@MODELS.register_module()
class LeanUPerHead(UPerHead):
    """UPerHead whose last convolution reads each level at its own size.

    mmseg enlarges all levels to the size of the finest, joins them, and convolves: at 512 px three fifths of the
    arithmetic of the whole model, on maps that hold nothing new. Enlarging and convolving are both linear, so
    the products with the weights can come first, on the small maps (:func:`conv3x3_of_resized`); the joined map is
    never made. Results differ from mmseg's by the order of summation alone. Parameters, state-dict keys and options are
    those of mmseg.
    """

    def _forward_feature(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """Merge the levels, (B, C_i, h_i, w_i), to the map (B, channels, h_0, w_0) that is classified."""
        maps = self._transform_inputs(inputs)
        levels = [conv(x) for conv, x in zip(self.lateral_convs, maps[:-1], strict=True)]
        levels.append(self.psp_forward(maps))
        for i in range(len(levels) - 1, 0, -1):
            size = levels[i - 1].shape[2:]
            above = resize(levels[i], size=size, mode="bilinear", align_corners=self.align_corners)
            levels[i - 1] = levels[i - 1] + above
        levels[:-1] = [conv(x) for conv, x in zip(self.fpn_convs, levels[:-1], strict=True)]
        return self._merge(levels)

    def _merge(self, levels: list[Tensor]) -> Tensor:
        """``fpn_bottleneck`` of the joined levels, which all get the size of the first."""
        block, size = self.fpn_bottleneck, levels[0].shape[2:]
        weights = block.conv.weight.split(self.channels, dim=1)
        parts = [
            conv3x3_of_resized(level, weight, (size[0], size[1]), self.align_corners)
            for level, weight in zip(levels, weights, strict=True)
        ]
        out = functools.reduce(operator.add, parts)
        if block.conv.bias is not None:
            out = out + block.conv.bias[:, None, None]
        if block.with_norm:
            out = block.norm(out)
        return block.activate(out) if block.with_activation else out


def conv3x3_of_resized(
    x: Tensor, weight: Tensor, size: tuple[int, int], align_corners: bool = False
) -> Tensor:
    """Resize bilinearly, then convolve 3 x 3 with padding 1, at the cost of the smaller of both maps.

    With W_ij the weights of one place of the kernel, S the shift to that place and R the resizing,
    ``sum_ij W_ij S_ij R x = sum_i S_i R_h sum_j S_j R_w (W_ij x)``: all products with weights are taken of the small
    map, and each side is then enlarged and shifted by one matrix of :func:`taps`. For s times larger sides, that
    is about 1 / s^2 of the products. Maps that hardly grow are resized first, as usual.

    Args:
        x: (B, C, h, w).
        weight: (O, C, 3, 3).
        size: (H, W) of the resized map.
        align_corners: See ``torch.nn.functional.interpolate``.

    Returns:
        (B, O, H, W).
    """
    count, _, height, width = x.shape
    if 2 * height * width > size[0] * size[1]:
        if (height, width) != size:
            x = F.interpolate(x, size=size, mode="bilinear", align_corners=align_corners)
        return F.conv2d(x, weight, padding=1)
    across = taps(width, size[1], align_corners, x)
    down = taps(height, size[0], align_corners, x).flatten(0, 1).t()  # (H, 3h)
    # (3, 3O, C, 1, 1): column of the kernel; then output channel and row of the kernel
    by_column = weight.permute(3, 0, 2, 1).flatten(1, 2)[..., None, None]
    x = x.contiguous()  # the products below then read rows; the small map is cheap to copy
    wide = x.new_zeros(())  # takes the shape of the first sum
    for matrix, kernel in zip(across, by_column, strict=True):
        wide = wide + F.conv2d(x, kernel).reshape(count, -1, 3 * height, width) @ matrix  # (B, O, 3h, W)
    return down @ wide


def taps(source: int, target: int, align_corners: bool, like: Tensor) -> Tensor:
    """Matrices that resize one side and shift it by -1, 0 and 1 pixels, with zeros from beyond the border.

    Args:
        source: Length before.
        target: Length after.
        align_corners: See ``torch.nn.functional.interpolate``.
        like: Gives device and floating-point type.

    Returns:
        (3, source, target): the product of a row with the k-th one is the resized row at positions p + k - 1.
    """
    rows = torch.eye(source, device=like.device, dtype=like.dtype)[None]
    resized = F.interpolate(rows, size=target, mode="linear", align_corners=align_corners)[0]
    return F.pad(resized, (1, 1)).unfold(1, target, 1).transpose(0, 1)
