"""Which patches are hidden: random and block masks, drawn for a whole batch at once.

Shapes: N images, a grid of rows x columns patches, L = rows * columns, K = visible patches.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from cmae_mm.errors import UserError

Grid = int | tuple[int, int]


class Mask(NamedTuple):
    """One mask for each image of a batch.

    Attributes:
        ids_keep: (N, K) int64, raster positions of the visible patches, ascending.
        ids_restore: (N, L) int64; ``cat(visible, hidden)[ids_restore]`` is the raster order.
        mask: (N, L) float32, 1 = removed, 0 = visible.
    """

    ids_keep: Tensor
    ids_restore: Tensor
    mask: Tensor

    @property
    def ids_shuffle(self) -> Tensor:
        """(N, L) int64, raster positions of the visible patches, then of the hidden ones."""
        return self.ids_restore.argsort(dim=1)


def take(tokens: Tensor, ids: Tensor) -> Tensor:
    """Pick tokens by position: (N, L, C) and (N, K) int64 -> (N, K, C)."""
    return tokens.gather(1, ids.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))


def as_grid(grid: Grid) -> tuple[int, int]:
    """Give ``grid`` as (rows, columns); one number means a square."""
    return (grid, grid) if isinstance(grid, int) else (int(grid[0]), int(grid[1]))


def kept_count(cells: int, ratio: float) -> int:
    """Count the cells that stay visible: ``int(cells * (1 - ratio))``, as in MAE and CMAE.

    Raises:
        UserError: The ratio leaves no visible cell, or hides none.
    """
    kept = int(cells * (1 - ratio))
    if not 0 < kept < cells:
        raise UserError(
            f"A mask ratio of {ratio} keeps {kept} of {cells} mask cells; "
            "choose mask_ratio (or mask_block) so that some cells stay and some go."
        )
    return kept


def _ranks_below(n: int, cells: int, kept: int, generator: torch.Generator | None, device: object) -> Tensor:
    """Draw (N, cells) float: 0 at ``kept`` uniformly drawn cells of each row, 1 elsewhere."""
    noise = torch.rand(n, cells, generator=generator, device=device)  # type: ignore[call-overload]
    return (noise.argsort(dim=1).argsort(dim=1) >= kept).float()


def mask_from_removed(removed: Tensor, kept: int) -> Mask:
    """Order the patches of a 0/1 map.

    Args:
        removed: (N, L) float, 1 = removed.
        kept: Visible patches of every row. Given, so that the device need not be asked.
    """
    # Stable, so that the order of visible tokens is the raster order on every device.
    shuffle = removed.argsort(dim=1, stable=True)
    return Mask(shuffle[:, :kept], shuffle.argsort(dim=1), removed)


def random_mask(
    n: int,
    grid: Grid,
    ratio: float,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> Mask:
    """Hide single patches, drawn uniformly for each image (MAE, section 3).

    Args:
        n: Number of images.
        grid: Patches as (rows, columns), or one number for a square.
        ratio: Share of hidden patches; ``int(L * (1 - ratio))`` stay visible.
        generator: Source of randomness, on ``device``.
        device: Where the mask is made.

    Raises:
        UserError: The ratio leaves no visible patch, or hides none.
    """
    rows, cols = as_grid(grid)
    kept = kept_count(rows * cols, ratio)
    return mask_from_removed(_ranks_below(n, rows * cols, kept, generator, device), kept)


def block_mask(
    n: int,
    grid: Grid,
    ratio: float,
    block: int = 2,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> Mask:
    """Hide whole blocks of ``block`` x ``block`` patches (official CMAE code, encoder masking).

    On a 14 x 14 grid, 0.65 and 2 x 2 blocks: 49 cells, 17 kept, 68 visible and 128 hidden patches.

    Args:
        n: Number of images.
        grid: Patches as (rows, columns), or one number for a square.
        ratio: Share of hidden blocks; ``int(cells * (1 - ratio))`` stay visible.
        block: Side of a block, in patches.
        generator: Source of randomness, on ``device``.
        device: Where the mask is made.

    Raises:
        UserError: The grid is no multiple of the block, or the ratio leaves no visible block.
    """
    rows, cols = as_grid(grid)
    if rows % block or cols % block:
        raise UserError(
            f"A grid of {rows} x {cols} patches cannot be cut into {block} x {block} mask blocks; "
            "change mask_block or the image size."
        )
    coarse_rows, coarse_cols = rows // block, cols // block
    kept = kept_count(coarse_rows * coarse_cols, ratio)
    cells = _ranks_below(n, coarse_rows * coarse_cols, kept, generator, device)
    cells = cells.view(n, coarse_rows, 1, coarse_cols, 1)
    removed = cells.expand(n, coarse_rows, block, coarse_cols, block).reshape(n, rows * cols)
    return mask_from_removed(removed, kept * block * block)


class DrawsMasks:
    """Mixed into masked encoders: how they draw masks when none is given.

    Attributes:
        mask_kind: ``"block"`` hides squares of patches (released code), ``"random"`` single patches (paper).
        mask_ratio: Share of hidden cells.
        mask_block: Side of a block in patches.
        patch_resolution: Patches of the training image as (rows, columns).
    """

    mask_kind: str
    mask_ratio: float
    mask_block: int
    patch_resolution: tuple[int, int]

    def set_masking(self, kind: Literal["block", "random"], ratio: float, block: int) -> None:
        """Choose the masks.

        Raises:
            UserError: There is no such kind.
        """
        if kind not in ("block", "random"):
            raise UserError(f"backbone.mask_kind is {kind!r}; set 'block' or 'random'.")
        self.mask_kind, self.mask_ratio, self.mask_block = kind, ratio, block

    def draw_mask(
        self,
        n: int,
        device: torch.device,
        generator: torch.Generator | None = None,
        grid: tuple[int, int] | None = None,
    ) -> Mask:
        """Draw masks for ``n`` images on ``device``; the grid is that of the training image by default."""
        grid = grid or as_grid(self.patch_resolution)
        if self.mask_kind == "random":
            return random_mask(n, grid, self.mask_ratio, generator, device)
        return block_mask(n, grid, self.mask_ratio, self.mask_block, generator, device)
