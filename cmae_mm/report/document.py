"""The report of a benchmark: the table, the pictures, and where every number came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from cmae_mm.report.figures import draw_curves
from cmae_mm.report.tables import csv_table, markdown_table, rows_of

_CAPTIONS = {
    "curves": "Training loss of each run of the first seed.",
    "views-": "Eight images: master crop, online view, target view, masked input, reconstruction.",
    "coco": "Detection from the pretrained backbone: ground truth, the best three detections with scores in %.",
    "ade20k": "Segmentation from the pretrained backbone: image, ground truth, prediction, errors in red.",
    "data/imagenet": "The classification set, a row for each class.",
    "data/coco": "The detection set, plain and with its boxes and masks; crowd regions in yellow.",
    "data/ade20k": "The segmentation set, images and label maps; void is black.",
}


class _Pretraining(Protocol):
    @property
    def method(self) -> str: ...


class _Recipe(Protocol):
    @property
    def title(self) -> str: ...
    @property
    def pretrain(self) -> _Pretraining: ...


def write_report(
    recipe: _Recipe,
    records: Sequence[dict[str, Any]],
    curves: Mapping[str, Mapping[str, Path]],
    out: Path,
) -> tuple[Path, str]:
    """Write ``report.md``, ``table.md``, ``table.csv`` and the curves.

    Args:
        recipe: Gives title and method.
        records: Result records.
        curves: Task title -> initialisation -> work dir.
        out: Folder of all outputs; pictures are in ``pictures/``.

    Returns:
        Path of the report, and the table as text.
    """
    table = markdown_table(rows_of(records, recipe.pretrain.method))
    draw_curves(curves, out / "pictures" / "curves.png")
    (out / "table.md").write_text(table + "\n")
    (out / "table.csv").write_text(csv_table(records))
    text = [f"# {recipe.title}", "", table, "", *_notes(records), "", *_pictures(out / "pictures")]
    report = out / "report.md"
    report.write_text("\n".join(text) + "\n")
    return report, table


def _notes(records: Sequence[dict[str, Any]]) -> list[str]:
    if not records:
        return ["No run is finished yet."]
    commits = sorted({r["commit"] or "unknown" for r in records})
    devices = sorted({r["device"] or "unknown" for r in records})
    seeds = sorted({r["seed"] for r in records})
    return [
        "Values are those of the last evaluation; the spread is the sample standard deviation over seeds. Both sides "
        "run the same recipe. The data is rendered and the model tiny: these numbers compare with nothing published.",
        "",
        f"- seeds: {', '.join(map(str, seeds))}",
        f"- commit: {', '.join(commits)} (`+`: with uncommitted changes)",
        f"- device: {', '.join(devices)}",
        "- one line a record: `table.csv`; everything: `records/records.json`",
    ]


def _pictures(folder: Path) -> list[str]:
    lines = []
    for path in sorted(folder.rglob("*.png"), key=lambda p: (len(p.parts), p)):
        name = str(path.relative_to(folder).with_suffix(""))
        caption = next((c for start, c in _CAPTIONS.items() if name.startswith(start)), name)
        lines += [f"## {name}", "", caption, "", f"![{caption}](pictures/{path.relative_to(folder)})", ""]
    return lines
