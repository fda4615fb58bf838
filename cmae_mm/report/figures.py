"""Loss and metric curves from the scalar logs of runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path


def read_scalars(work_dir: Path) -> list[dict[str, float]]:
    """Read the newest ``scalars.json`` files of a run; later lines replace earlier ones of the same step.

    Args:
        work_dir: Work dir of a run, which may have been resumed several times.

    Returns:
        One dict a line; damaged lines are left out.
    """
    lines = []
    for path in sorted(work_dir.glob("*/vis_data/scalars.json")):
        for text in path.read_text(errors="replace").splitlines():
            try:
                line = json.loads(text)
            except (ValueError, RecursionError):  # a killed run may leave half a line
                continue
            if isinstance(line, dict):
                lines.append(line)
    return lines


def series(lines: list[dict[str, float]], key: str) -> tuple[list[float], list[float]]:
    """Returns: Steps and values of one scalar, sorted by step."""
    points = {line["step"]: line[key] for line in lines if key in line and "step" in line}
    return sorted(points), [points[step] for step in sorted(points)]


def draw_curves(runs: Mapping[str, Mapping[str, Path]], path: Path) -> None:
    """Draw the training loss of every task, pretrained beside random, into one PNG.

    Args:
        runs: Task title -> initialisation -> work dir.
        path: PNG to write.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    columns = 3
    rows = -(-len(runs) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(4.2 * columns, 3.1 * rows), squeeze=False)
    for axis in axes.flat[len(runs) :]:
        axis.set_axis_off()
    for axis, (title, sides) in zip(axes.flat, runs.items(), strict=False):
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("iteration", fontsize=8)
        axis.set_ylabel("training loss", fontsize=8)
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.3)
        for index, (name, folder) in enumerate(sides.items()):
            steps, values = series(read_scalars(folder), "loss")
            axis.plot(steps, values, color=f"C{index}", linewidth=1.3, label=name)
        _parts(axis, sides)
        axis.legend(fontsize=7)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _parts(axis, sides: Mapping[str, Path]) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    """Add the two parts of the pretraining loss, where the run has them."""
    if len(sides) != 1:
        return
    lines = read_scalars(next(iter(sides.values())))
    for style, (key, label) in zip(
        ("--", ":"), (("loss_rec", "reconstruction"), ("loss_con", "contrastive")), strict=True
    ):
        steps, values = series(lines, key)
        axis.plot(steps, values, style, color="C2" if style == "--" else "C3", linewidth=1.1, label=label)
