"""Cut a grid into windows without padding it."""

from __future__ import annotations

from collections.abc import Callable

import torch

Grid = tuple[int, int]


def map_windows(
    qkv: torch.Tensor, window: int, attend: Callable[[torch.Tensor, Grid, int], torch.Tensor]
) -> torch.Tensor:
    """Run attention inside windows; those that the border cuts run in batches of their own, as they are.

    Args:
        qkv: (B, rows, columns, 3, heads, D).
        window: Side of a window.
        attend: Turns (3, windows, heads, N, D), the rows and columns of the N places, and ``window`` into
            (windows, heads, N, D).

    Returns:
        (B, rows, columns, heads, D).
    """
    bands = []
    for top, bottom, height in _bands(qkv.shape[1], window):
        pieces = []
        for left, right, width in _bands(qkv.shape[2], window):
            piece = _to_windows(qkv[:, top:bottom, left:right], height, width)
            mixed = attend(piece, (height, width), window)
            pieces.append(_from_windows(mixed, ((bottom - top) // height, (right - left) // width), height))
        bands.append(torch.cat(pieces, dim=2) if len(pieces) > 1 else pieces[0])
    return torch.cat(bands, dim=1) if len(bands) > 1 else bands[0]


def _bands(size: int, window: int) -> list[tuple[int, int, int]]:
    """Start, end and height of a window in each part of an axis: the whole windows, then the cut one."""
    whole = size - size % window
    parts = [(0, whole, window), (whole, size, size - whole)]
    return [part for part in parts if part[1] > part[0]]


def _to_windows(qkv: torch.Tensor, height: int, width: int) -> torch.Tensor:
    b, rows, columns, _, heads, d = qkv.shape
    windows = qkv.reshape(b, rows // height, height, columns // width, width, 3, heads, d)
    return windows.permute(5, 0, 1, 3, 6, 2, 4, 7).reshape(3, -1, heads, height * width, d)


def _from_windows(x: torch.Tensor, count: Grid, height: int) -> torch.Tensor:
    _, heads, places, d = x.shape
    down, across = count
    x = x.view(-1, down, across, heads, height, places // height, d).permute(0, 1, 4, 2, 5, 3, 6)
    return x.reshape(len(x), down * height, across * (places // height), heads, d)
