"""Pictures of an analysis: attention of heads, similarity of layers, tokens in colours and in the plane."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

_DPI = 110


def draw_attention(models: Mapping[str, Mapping[str, np.ndarray]], uniform: float, path: Path) -> None:
    """Distance and mutual information of each head, a column for each model.

    Args:
        models: Name to ``attention_distance`` and ``attention_nmi``, (layers, heads).
        uniform: Distance in pixels where a patch looks everywhere alike.
        path: PNG to write.
    """
    plt = _pyplot()
    figure, axes = plt.subplots(2, len(models), figsize=(4.2 * len(models), 6), squeeze=False, sharey="row")
    for column, (name, values) in enumerate(models.items()):
        for row, (key, label) in enumerate(
            (("attention_distance", "distance (px)"), ("attention_nmi", "query-key NMI"))
        ):
            axis, found = axes[row][column], values[key]
            layers = np.arange(1, len(found) + 1)
            axis.plot(layers, found, "o", color="tab:blue", alpha=0.45, markersize=4, markeredgewidth=0)
            axis.plot(layers, found.mean(1), color="tab:orange", linewidth=2, label="mean of heads")
            if row == 0:
                axis.axhline(uniform, color="grey", linestyle=":", label="uniform attention")
                axis.set_title(name)
            axis.set(xlabel="block" * row, ylabel=label if column == 0 else "")
            axis.xaxis.get_major_locator().set_params(integer=True)
            axis.grid(alpha=0.3)
    for axis in axes[:, 0]:  # shared by a row; set earlier, it would hold the range of the first model
        axis.set_ylim(bottom=0)
    axes[0][0].legend(fontsize=8)
    _save(figure, path)


def draw_similarity(matrices: Mapping[tuple[str, str], np.ndarray], path: Path) -> None:
    """Heat maps of CKA between layers.

    Args:
        matrices: Names of two models to (layers of the first, layers of the second).
        path: PNG to write.
    """
    plt = _pyplot()
    figure, axes = plt.subplots(
        1, len(matrices), figsize=(3.6 * len(matrices) + 0.6, 3.6), squeeze=False, layout="constrained"
    )
    for axis, ((first, second), values) in zip(axes[0], matrices.items(), strict=True):
        extent = (0.5, values.shape[1] + 0.5, 0.5, values.shape[0] + 0.5)
        drawn = axis.imshow(values, origin="lower", vmin=0, vmax=1, cmap="magma", extent=extent)
        axis.set(xlabel=f"{second}, block", ylabel=f"{first}, block")
        for side in (axis.xaxis, axis.yaxis):
            side.get_major_locator().set_params(integer=True)
    figure.colorbar(drawn, ax=list(axes[0]), label="linear CKA", shrink=0.85)
    _save(figure, path)


def draw_patches(images: np.ndarray, colours: Mapping[str, np.ndarray], path: Path) -> None:
    """Images, and below them their patch tokens in the colours of their first three principal components.

    Args:
        images: (M, H, W, 3) uint8, RGB.
        colours: Name of a model to (M, rows, columns, 3) from 0 to 1.
        path: PNG to write.
    """
    plt = _pyplot()
    count = len(images)
    figure, axes = plt.subplots(
        1 + len(colours), count, figsize=(1.6 * count, 1.7 * (1 + len(colours))), squeeze=False
    )
    for row, (name, shown) in enumerate({"image": images, **colours}.items()):
        for column in range(count):
            axis = axes[row][column]
            axis.imshow(shown[column], interpolation="nearest")
            axis.set(xticks=[], yticks=[])
        axes[row][0].set_ylabel(name)
    figure.subplots_adjust(wspace=0.04, hspace=0.04)
    _save(figure, path)


def draw_planes(
    points: Mapping[str, np.ndarray], labels: Sequence[int], names: Sequence[str], path: Path
) -> None:
    """Images as points, coloured by class.

    Args:
        points: Title to (n, 2).
        labels: Class of each image.
        names: Of the classes; at most 10 are told in a legend.
        path: PNG to write.
    """
    plt = _pyplot()
    columns = 4 if len(points) % 4 == 0 else 2
    rows = -(-len(points) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(3.3 * columns, 3.4 * rows), squeeze=False)
    present = sorted(set(labels))
    place = {label: i for i, label in enumerate(present)}
    palette = plt.get_cmap("tab10" if len(present) <= 10 else "hsv")
    shade = [palette(place[n] if len(present) <= 10 else place[n] / len(present)) for n in labels]
    for axis, (title, xy) in zip(axes.flat, points.items(), strict=False):
        axis.scatter(xy[:, 0], xy[:, 1], s=7, c=shade, linewidths=0)
        axis.set(title=title, xticks=[], yticks=[])
    if len(present) <= 10:
        dots = [
            plt.Line2D([], [], marker="o", linestyle="", color=palette(i), label=names[label])
            for label, i in place.items()
        ]
        figure.legend(handles=dots, loc="lower center", ncols=5, fontsize=8, frameon=False)
        figure.subplots_adjust(bottom=0.12 / rows + 0.04)
    _save(figure, path)


def principal_colours(tokens: np.ndarray) -> np.ndarray:
    """First three principal components of all patches together, each stretched from 0 to 1 (2nd to 98th percentile).

    Args:
        tokens: (M, rows, columns, C).

    Returns:
        (M, rows, columns, 3).
    """
    components = project(tokens.reshape(-1, tokens.shape[-1]), 3)
    low, high = np.percentile(components, (2, 98), axis=0)
    stretched = np.clip((components - low) / np.maximum(high - low, 1e-12), 0, 1)
    return stretched.reshape(*tokens.shape[:3], 3)


def project(rows: np.ndarray, count: int) -> np.ndarray:
    """Principal components of rows; signs are such that the largest loading of each is positive.

    Args:
        rows: (n, d).
        count: Components.

    Returns:
        (n, count).
    """
    centred = rows.astype(np.float64) - rows.mean(0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    axes = axes[:count]
    signs = np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(1)])
    found: np.ndarray = centred @ (axes * signs[:, None]).T
    return found


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, dpi=_DPI, bbox_inches="tight")
    _pyplot().close(figure)
