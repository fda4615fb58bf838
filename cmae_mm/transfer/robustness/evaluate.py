"""Run a classifier over images and count."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from cmae_mm.transfer.robustness.images import TestImages
from cmae_mm.transfer.robustness.scores import Score


@torch.no_grad()
def evaluate(
    model: nn.Module,
    dataset: TestImages,
    scores: Sequence[Sequence[Score]],
    batch_size: int,
    workers: int,
    progress: Callable[[int, int], None],
) -> None:
    """Let a classifier see all images once.

    Args:
        model: Of mmpretrain, with its data preprocessor; in evaluation mode.
        dataset: Images, plain or in versions.
        scores: For each version (one if plain) what is counted.
        batch_size: Images in a forward pass.
        workers: Processes that read, resize and corrupt.
        progress: Called with images done and their number.
    """
    versions = len(scores)
    loader = DataLoader(dataset, max(1, batch_size // versions), num_workers=workers, shuffle=False)
    done = 0
    for rows, images in loader:
        flat = images.flatten(0, 1) if images.ndim == 5 else images
        logits = torch.cat([_logits(model, chunk) for chunk in flat.split(batch_size)])
        for version, some in enumerate(scores):
            for score in some:
                score.update(rows, logits[version::versions])
        done += len(rows)
        progress(done, len(dataset))


def _logits(model: Any, images: Tensor) -> Tensor:
    inputs = model.data_preprocessor({"inputs": images}, False)["inputs"]
    logits: Tensor = model(inputs, mode="tensor")
    return logits.float()
