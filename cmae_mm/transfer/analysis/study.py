"""The analysis of one or more encoders on the same images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from cmae_mm.data.masters import draw_key
from cmae_mm.data.progress import CountLine
from cmae_mm.transfer.analysis.attention import patch_distances
from cmae_mm.transfer.analysis.encoder import ObservedEncoder
from cmae_mm.transfer.analysis.pictures import (
    draw_attention,
    draw_patches,
    draw_planes,
    draw_similarity,
    principal_colours,
    project,
)
from cmae_mm.transfer.analysis.rank import covariance_rank, lidar, rankme
from cmae_mm.transfer.analysis.similarity import BatchedCKA
from cmae_mm.transfer.robustness.images import TestImages

Tokens = Literal["all", "mean", "cls"]
POOLED: tuple[Tokens, ...] = ("mean", "cls")
SHOWN = 8
"""Images whose patch tokens are drawn."""


class Study:
    """Observes encoders and keeps what is measured.

    Args:
        models: The encoders; similarity is that of each with itself and of the first with each other one.
        tokens: What CKA compares: all tokens of an image in one row, their mean, or the class token.
    """

    def __init__(self, models: Sequence[ObservedEncoder], tokens: Tokens = "all") -> None:
        self.models, self.tokens = models, tokens
        pairs = [(i, i) for i in range(len(models))] + [(0, i) for i in range(1, len(models))]
        self.cka = {pair: BatchedCKA() for pair in pairs}
        self.pooled: dict[str, dict[Tokens, list[list[Tensor]]]] = {
            m.name: {k: [] for k in POOLED} for m in models
        }
        self.shown: dict[str, Tensor] = {}
        self.rows: list[int] = []

    def look(self, dataset: TestImages, batch_size: int, workers: int) -> None:
        """Let every encoder see every image.

        Args:
            dataset: Plain images.
            batch_size: Images in a batch; CKA is estimated in each.
            workers: Processes that read.
        """
        progress = CountLine("images")
        for rows, images in DataLoader(dataset, batch_size, num_workers=workers):
            layers = [m.observe(images) for m in self.models]
            for (a, b), cka in self.cka.items():
                first = [_compared(x, self.tokens) for x in layers[a]]
                cka.update(first, first if a == b else [_compared(x, self.tokens) for x in layers[b]])
            for model, tokens in zip(self.models, layers, strict=True):
                if model.name not in self.shown:
                    self.shown[model.name] = tokens[-1][:SHOWN, 1:].cpu()
                for kind in POOLED:
                    self.pooled[model.name][kind].append([_compared(x, kind).cpu() for x in tokens])
            self.rows += rows.tolist()
            progress(len(self.rows), len(dataset))

    def features(self, name: str, kind: Tokens) -> list[Tensor]:
        """Pooled features (n, C) after each block."""
        return [torch.cat(parts) for parts in zip(*self.pooled[name][kind], strict=True)]

    def results(self) -> dict[str, Any]:
        """Everything as plain numbers: of models by name, CKA by ``first|second``."""
        models = {}
        for model in self.models:
            models[model.name] = {
                "file": model.file,
                "attention_distance": torch.cat(model.distance).double().mean(0).tolist(),
                "attention_nmi": torch.cat(model.nmi).double().mean(0).tolist(),
                "rankme": {k: [rankme(x) for x in self.features(model.name, k)] for k in POOLED},
                "covariance_rank": {
                    k: [covariance_rank(x) for x in self.features(model.name, k)] for k in POOLED
                },
            }
        cka = {f"{self._name(a)}|{self._name(b)}": c.result().tolist() for (a, b), c in self.cka.items()}
        batches = next(iter(self.cka.values())).batches
        return {"models": models, "cka": cka, "cka_tokens": self.tokens, "cka_batches": batches}

    def pictures(self, folder: Path, dataset: TestImages, classes: Sequence[str]) -> list[Path]:
        """Draw.

        Args:
            folder: For the PNGs.
            dataset: What was looked at.
            classes: Names.

        Returns:
            The files.
        """
        files = [folder / f"{name}.png" for name in ("attention", "cka", "patches", "images")]
        first = self.models[0]
        draw_attention(
            {
                m.name: {
                    "attention_distance": torch.cat(m.distance).mean(0).numpy(),
                    "attention_nmi": torch.cat(m.nmi).mean(0).numpy(),
                }
                for m in self.models
            },
            float(patch_distances(first.grid, first.patch).mean()),
            files[0],
        )
        draw_similarity(
            {(self._name(a), self._name(b)): c.result().numpy() for (a, b), c in self.cka.items()}, files[1]
        )
        images = np.stack(
            [dataset[i][1].numpy()[::-1].transpose(1, 2, 0) for i in range(min(SHOWN, len(dataset)))]
        )
        colours = {
            m.name: principal_colours(self.shown[m.name].unflatten(1, m.grid).float().numpy())
            for m in self.models
        }
        draw_patches(images, colours, files[2])
        labels = [dataset.images.labels[row] for row in self.rows]
        draw_planes(self._planes(), labels, classes, files[3])
        return files

    def _planes(self) -> dict[str, np.ndarray]:
        from sklearn.manifold import TSNE

        planes = {}
        for model in self.models:
            for kind in POOLED:
                rows = self.features(model.name, kind)[-1].double().numpy()
                planes[f"{model.name}, {kind} token, PCA"] = project(rows, 2)
                tsne = TSNE(random_state=0, init="pca", perplexity=min(30, (len(rows) - 1) / 3))
                planes[f"{model.name}, {kind} token, t-SNE"] = tsne.fit_transform(rows)
        return planes

    def _name(self, index: int) -> str:
        return self.models[index].name


def lidar_of(
    model: ObservedEncoder, transform: Any, files: Sequence[Path], views: int, seed: int, batch_size: int = 64
) -> dict[str, float]:
    """LiDAR of an encoder on augmented views of images.

    Args:
        model: The encoder.
        transform: From ``img_path`` to ``img``, with random draws from NumPy.
        files: The images.
        views: Of each image.
        seed: Of the draws.
        batch_size: Views in a forward pass.

    Returns:
        For the mean of the patch tokens and for the class token.
    """
    pixels = []
    for row, file in enumerate(files):
        for view in range(views):
            np.random.seed(draw_key(seed, view, row) % 2**32)
            image = transform({"img_path": str(file)})["img"]
            pixels.append(torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))))
    observed = len(model.distance)
    last = [
        model.observe(torch.stack(pixels[i : i + batch_size]))[-1] for i in range(0, len(pixels), batch_size)
    ]
    del (
        model.distance[observed:],
        model.nmi[observed:],
    )  # augmented views are not part of the attention's means
    tokens = {kind: torch.cat([_compared(x, kind).cpu() for x in last]) for kind in POOLED}
    return {kind: lidar(x.unflatten(0, (len(files), views))) for kind, x in tokens.items()}


def _compared(tokens: Tensor, kind: Tokens) -> Tensor:
    """Rows (B, d) of tokens (B, 1 + patches, C)."""
    if kind == "all":
        return tokens.flatten(1)
    return tokens[:, 1:].mean(1) if kind == "mean" else tokens[:, 0]
