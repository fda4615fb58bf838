"""What CMAE sees and what it paints: master crop, both views, masked input, reconstruction."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from torch import Tensor

from cmae_mm.engine.inference import picture_arguments, prepare

_COLUMNS = ("master crop", "online view", "target view", "masked input", "reconstruction")


def pretraining_main(argv: Sequence[str] | None = None) -> int:
    """Draw a few images on their way through CMAE: ``tools/visualize_pretraining.py``.

    Args:
        argv: Words of the command line; those of the process if None.

    Returns:
        Exit code 0.
    """
    args = picture_arguments("Draw the views and the reconstruction of a pretraining checkpoint.", argv)
    _, model, samples = prepare(args, "train")
    views = model.data_preprocessor
    master = torch.stack([sample["inputs"] for sample in samples]).float()
    batch = pseudo_collate(samples)
    with torch.no_grad():
        img, img_t = views(batch, training=True)["inputs"]
        painted = model.reconstruct(img)
    pictures = [
        master.flip(1).to(torch.uint8),  # the loader gives BGR
        views.to_pixels(img),
        views.to_pixels(img_t),
        _cover(views.to_pixels(img), painted.mask),
        views.to_pixels(torch.where(painted.mask.bool(), painted.image, img)),
    ]
    _draw(pictures, Path(args.out))
    print(
        f"{args.out}: {len(samples)} images; columns: {', '.join(_COLUMNS)} (visible patches are the input's)"
    )
    return 0


def _cover(pixels: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask.bool(), torch.full_like(pixels, 127), pixels)


def _draw(columns: Sequence[Tensor], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = len(columns[0])
    figure, axes = plt.subplots(rows, len(columns), figsize=(1.9 * len(columns), 1.9 * rows), squeeze=False)
    for j, (title, pictures) in enumerate(zip(_COLUMNS, columns, strict=True)):
        axes[0][j].set_title(title, fontsize=9)
        for i in range(rows):
            axes[i][j].imshow(np.asarray(pictures[i].permute(1, 2, 0)), interpolation="nearest")
            axes[i][j].set_axis_off()
    figure.tight_layout(pad=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)
    plt.close(figure)
