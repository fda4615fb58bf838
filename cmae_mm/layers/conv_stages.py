"""The convolutional stages of a hybrid ViT (ConvMAE, arXiv 2205.03892), on whole maps or on visible cells only.

A *cell* is the square of the image that becomes one token: 16 px, or 4 x 4 places of stage 1. Hidden cells must not
reach visible ones, so the 5 x 5 convolution sees zeros in their place. Nothing else mixes cells. That is why all
other layers may run on visible cells alone, with the same result as on whole maps.

Maps are channels last, (M, h, w, C): M whole images, or M visible cells of all images.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn

CONV_EPS = 1e-5  # of the layer norms here; those of the transformer have 1e-6


class VisibleCells:
    """Where the visible cells of a batch lie.

    Args:
        ids_keep: (N, K) int64, raster positions of the visible cells on ``grid``, in any order.
        grid: Rows and columns of cells.
    """

    def __init__(self, ids_keep: Tensor, grid: tuple[int, int]) -> None:
        self.ids_keep = ids_keep
        self.grid = grid
        self._places: dict[int, Tensor] = {}

    def places(self, side: int) -> Tensor:
        """Index all visible places in the flattened maps of the batch.

        Args:
            side: Side of a cell, in places of the map.

        Returns:
            (N * K * side * side,) int64, cell by cell and inside a cell row by row.
        """
        if side not in self._places:
            rows, cols = self.grid
            width, device = cols * side, self.ids_keep.device
            first = torch.arange(len(self.ids_keep), device=device) * (rows * side * width)
            corner = (self.ids_keep // cols) * (side * width) + (self.ids_keep % cols) * side
            steps = torch.arange(side, device=device)
            inside = (steps.unsqueeze(1) * width + steps).flatten()
            self._places[side] = ((first.unsqueeze(1) + corner).unsqueeze(-1) + inside).flatten()
        return self._places[side]

    def collect(self, maps: Tensor) -> Tensor:
        """Cut the visible cells out of maps: (N, rows * s, columns * s, C) -> (N * K, s, s, C)."""
        side = maps.shape[1] // self.grid[0]
        places = maps.flatten(0, 2).index_select(0, self.places(side))
        return places.view(-1, side, side, maps.shape[-1])

    def spread(self, cells: Tensor) -> Tensor:
        """Put the cells back into maps of zeros: the inverse of :meth:`collect`."""
        side, width = cells.shape[1], cells.shape[-1]
        n, (rows, cols) = len(self.ids_keep), self.grid
        maps = cells.new_zeros(n * rows * side * cols * side, width)
        maps = maps.index_copy(0, self.places(side), cells.reshape(-1, width))
        return maps.view(n, rows * side, cols * side, width)


class PatchConv(nn.Conv2d):
    """A convolution whose stride is its kernel: a linear layer on patches.

    Args:
        in_channels: Width of the input.
        out_channels: Width of the output.
        side: Side of the kernel in places; 1 mixes channels only.
    """

    def __init__(self, in_channels: int, out_channels: int, side: int = 1) -> None:
        super().__init__(in_channels, out_channels, side, stride=side)

    def forward(self, x: Tensor) -> Tensor:
        """Transform (M, h, w, C) into (M, h / side, w / side, D)."""
        m, h, w, c = x.shape
        side = self.kernel_size[0]
        if side > 1:
            x = x.reshape(m, h // side, side, w // side, side, c).transpose(2, 3).flatten(3)
        return F.linear(x, self.weight.permute(0, 2, 3, 1).flatten(1), self.bias)


class MaskedDepthwiseConv(nn.Conv2d):
    """A 5 x 5 convolution of each channel by itself, which takes hidden cells for zeros.

    Zeros as at the border of the image; the result is not scaled up where neighbours are hidden.

    Args:
        width: Number of channels.
    """

    def __init__(self, width: int) -> None:
        super().__init__(width, width, 5, padding=2, groups=width)

    def forward(self, x: Tensor, visible: VisibleCells | None = None) -> Tensor:  # type: ignore[override]
        """Transform (M, h, w, C); with ``visible``, x holds visible cells and so does the result."""
        maps = x if visible is None else visible.spread(x)
        maps = super().forward(maps.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return maps if visible is None else visible.collect(maps)


class PatchEmbed(nn.Module):
    """Entry of a stage: patches become places, then norm and GELU.

    Args:
        in_channels: Width of the input.
        out_channels: Width of the stage.
        side: Side of a patch in places of the input.
    """

    def __init__(self, in_channels: int, out_channels: int, side: int) -> None:
        super().__init__()
        self.proj = PatchConv(in_channels, out_channels, side)
        self.norm = nn.LayerNorm(out_channels, eps=CONV_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """Transform (M, h, w, C) into (M, h / side, w / side, D)."""
        return F.gelu(self.norm(self.proj(x)))


class ConvBlock(nn.Module):
    """A pre-norm block with a convolution in the place of attention, hence its name ``attn``.

    Args:
        width: Number of channels.
        mlp_ratio: Hidden width of the MLP over ``width``.
        eps: Of the layer norms.
        drop_path: Probability of dropping a branch for a sample.
    """

    def __init__(self, width: int, mlp_ratio: float, eps: float = CONV_EPS, drop_path: float = 0.0) -> None:
        super().__init__()
        hidden = int(width * mlp_ratio)
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.conv1 = PatchConv(width, width)
        self.attn = MaskedDepthwiseConv(width)
        self.conv2 = PatchConv(width, width)
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()
        layers = {"fc1": PatchConv(width, hidden), "act": nn.GELU(), "fc2": PatchConv(hidden, width)}
        self.mlp = nn.Sequential(OrderedDict(layers))

    def forward(self, x: Tensor, visible: VisibleCells | None = None) -> Tensor:
        """Transform (M, h, w, C) whole maps, or the cells that are ``visible``."""
        x = x + self.drop_path(self.conv2(self.attn(self.conv1(self.norm1(x)), visible)))
        return x + self.drop_path(self.mlp(self.norm2(x)))
