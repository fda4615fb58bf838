"""Curves of a pretraining run, drawn from its log while it trains."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mmengine.registry import HOOKS

from cmae_mm.pretrain.monitor import KNN_FILE, PICTURES, EpochMonitor, earlier_entries


@HOOKS.register_module()
class CurvesHook(EpochMonitor):
    """Draws the logged curves of the whole run, resumed parts included: ``pictures/curves.png``.

    Args:
        interval: Epochs between two drawings.
    """

    priority = "LOWEST"  # after the other looks

    def __init__(self, interval: int = 10) -> None:
        super().__init__(interval, at_start=False)

    def is_done(self, runner: Any, epoch: int) -> bool:
        """Always: a run that only resumes has logged nothing new."""
        return True

    def look(self, runner: Any, epoch: int) -> None:
        """Draw in process 0."""
        if runner.rank == 0:
            draw_curves(Path(runner.work_dir))


_PANELS = {
    "loss": ("loss", "loss_rec", "loss_con"),
    "contrast": ("con_acc", "pos_sim", "neg_sim"),
    "spread of features (0: collapse)": ("feat_std", "target_std"),
    "kNN top-1 [%]": ("knn_top1",),
}


def draw_curves(work_dir: Path) -> Path:
    """Draw losses, statistics and kNN accuracy of a pretraining run over its iterations.

    Args:
        work_dir: Work dir of the run, finished or not.

    Returns:
        The PNG.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    lines = [*_logged_lines(work_dir), *earlier_entries(work_dir / KNN_FILE, float("inf"))]
    figure, axes = plt.subplots(2, 2, figsize=(9, 6))
    for axis, (title, names) in zip(axes.flat, _PANELS.items(), strict=True):
        for name in names:
            points = [(line["iter"], line[name]) for line in lines if name in line]
            if points:
                axis.plot(*zip(*points, strict=True), ".-", label=name, linewidth=1.2, markersize=3)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("iteration", fontsize=8)
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.3)
        if axis.lines:
            axis.legend(fontsize=7)
            if "spread" in title:
                axis.set_ylim(0, 1.1 * axis.dataLim.ymax)  # small changes shall look small
    figure.tight_layout()
    path = work_dir / PICTURES / "curves.png"
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path


def _logged_lines(work_dir: Path) -> list[dict[str, float]]:
    """Training lines of all parts of a run; a resumed part replaces what it trained again."""
    lines: list[dict[str, float]] = []
    for path in sorted(work_dir.glob("*/vis_data/scalars.json")):
        part = [line for text in path.read_text().splitlines() if "iter" in (line := _parsed(text))]
        lines = [line for line in lines if line["iter"] < part[0]["iter"]] + part if part else lines
    return lines


def _parsed(text: str) -> dict[str, float]:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # a killed run may leave half a line
        return {}
