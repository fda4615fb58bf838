"""What a pretraining recipe shows its encoder, and what a trained model paints: masters, views, masks, pixels."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from mmengine.registry import MODELS
from torch import Tensor

from cmae_mm.engine.inference import load_samples, picture_arguments, picture_config, prepare
from cmae_mm.errors import UserError
from cmae_mm.pretrain.view_preprocessor import ViewPreprocessor

_FRAMES = ("#0072b2", "#d55e00")  # of the first and the second view; told apart by the colour-blind too
_HIDDEN = 127  # grey level of a hidden patch
_INCHES = 1.9  # side of a picture


class _Column(NamedTuple):
    """A title, (N, 3, H, W) uint8 RGB pictures, and for each the boxes to frame: (N, 4) shares and a colour."""

    title: str
    pictures: Tensor
    frames: tuple[tuple[Tensor, str], ...] = ()


def views_main(argv: Sequence[str] | None = None) -> int:
    """Draw master images, views and masks of a config, without a checkpoint: ``tools/visualize_views.py``.

    Args:
        argv: Words of the command line; those of the process if None.

    Returns:
        Exit code 0.

    Raises:
        UserError: The config is no pretraining recipe of the suite.
    """
    args = picture_arguments(
        "Draw the views and masks that a pretraining config makes.", argv, checkpoint=False
    )
    cfg = picture_config(args, "train")
    settings = cfg.model.get("data_preprocessor")
    preprocessor = MODELS.build(settings) if settings else None
    if not isinstance(preprocessor, ViewPreprocessor):
        raise UserError(
            f"{args.config} makes no views; give a pretraining config (configs/pretrain, configs/mini)."
        )
    backbone = MODELS.build(cfg.model.backbone)  # draws the masks; its weights are not used
    samples = load_samples(cfg, args, "train")[1]
    columns, views = _view_columns(preprocessor, samples)
    for name, view in views:
        mask = backbone.draw_mask(len(view), view.device).mask
        hidden = _to_pixel_grid(mask, tuple(backbone.patch_resolution), preprocessor.size)
        columns.append(_masked(f"{name}, masked", preprocessor.to_pixels(view), hidden))
    return _finish(args, columns)


def pretraining_main(argv: Sequence[str] | None = None) -> int:
    """Draw a few images on their way through a trained model: ``tools/visualize_pretraining.py``.

    Args:
        argv: Words of the command line; those of the process if None.

    Returns:
        Exit code 0.
    """
    args = picture_arguments("Draw the views and the reconstruction of a pretraining checkpoint.", argv)
    _, model, samples = prepare(args, "train")
    preprocessor = model.data_preprocessor
    columns, views = _view_columns(preprocessor, samples)
    for name, view in views:
        painted = model.reconstruct(view)
        hidden = painted.mask.bool()
        rebuilt = preprocessor.to_pixels(torch.where(hidden, painted.image, view))
        columns.append(_masked(f"{name}, masked", preprocessor.to_pixels(view), hidden))
        columns.append(_Column(f"{name}, rebuilt", rebuilt))
    return _finish(args, columns)


def _view_columns(
    preprocessor: Any, samples: Sequence[dict[str, Any]]
) -> tuple[list[_Column], list[tuple[str, Tensor]]]:
    """Make the views; give columns of masters and views, and the names and pixels of the views to mask."""
    preprocessor.capture = True
    inputs = preprocessor(pseudo_collate(samples), training=True)["inputs"]
    views = [inputs] if isinstance(inputs, Tensor) else inputs
    shot = preprocessor.captured
    master = shot.master.flip(1).to(torch.uint8)  # the loader gives BGR
    columns = [_Column("image from the loader", master, tuple(zip(shot.boxes, _FRAMES, strict=False)))]
    whole = torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(len(samples), 4)
    named = list(zip(preprocessor.view_names, views, strict=True))
    for i, (name, view) in enumerate(named):
        colour = _FRAMES[min(i, len(shot.boxes) - 1)]  # one crop given twice has one frame
        columns.append(_Column(name, preprocessor.to_pixels(view), ((whole, colour),)))
    return columns, named[: preprocessor.masked_views]


def _to_pixel_grid(mask: Tensor, grid: tuple[int, int], size: int) -> Tensor:
    """Blow (N, L) patches up to (N, 1, size, size) bool."""
    cells = mask.view(len(mask), 1, *grid).bool()
    return cells.repeat_interleave(size // grid[0], dim=2).repeat_interleave(size // grid[1], dim=3)


def _masked(title: str, pixels: Tensor, hidden: Tensor) -> _Column:
    return _Column(title, pixels.masked_fill(hidden, _HIDDEN))


def _finish(args: argparse.Namespace, columns: Sequence[_Column]) -> int:
    _draw(columns, Path(args.out))
    count = len(columns[0].pictures)
    print(f"{args.out}: {count} images; columns: {'; '.join(column.title for column in columns)}")
    return 0


def _draw(columns: Sequence[_Column], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = len(columns[0].pictures)
    size = (_INCHES * len(columns), _INCHES * rows + 0.3)
    figure, axes = plt.subplots(rows, len(columns), figsize=size, squeeze=False)
    for j, column in enumerate(columns):
        axes[0][j].set_title(column.title, fontsize=9)
        for i, picture in enumerate(column.pictures):
            axes[i][j].imshow(np.asarray(picture.permute(1, 2, 0)), interpolation="nearest")
            axes[i][j].set_axis_off()
            for boxes, colour in column.frames:
                _frame(axes[i][j], boxes[i].tolist(), picture.shape[-2:], colour)
    figure.tight_layout(pad=0.4)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)
    plt.close(figure)


def _frame(axis: Any, box: Sequence[float], shape: Sequence[int], colour: str) -> None:
    from matplotlib.patches import Rectangle

    height, width = shape
    top, left, tall, wide = box
    corner = (left * width - 0.5, top * height - 0.5)  # pixel centres are at whole numbers
    axis.add_patch(
        Rectangle(
            corner, wide * width, tall * height, fill=False, edgecolor=colour, linewidth=2, clip_on=False
        )
    )
