"""Curves of runs as small inline SVG: colours come from the page's style sheet, so they fit a dark page too."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

from cmae_mm.report.formats import clean

COLORS = 6
"""How many line colours the style sheet has (classes ``line-0`` to ``line-5``)."""

_MAX_BYTES = 64 << 20
_POINTS = 160
_WIDTH, _HEIGHT = 360, 212
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 8, 10, 32

Points = tuple[Sequence[float], Sequence[float]]


@dataclass(frozen=True)
class Chart:
    """One chart.

    Attributes:
        title: What is drawn.
        svg: Inline SVG.
        legend: Colour number and name of each line.
    """

    title: str
    svg: str
    legend: tuple[tuple[int, str], ...]


def read_scalars(path: Path) -> list[dict[str, float]]:
    """Read the scalar log of a run; later lines replace earlier ones of the same step.

    Args:
        path: A file of JSON lines, or a work dir with ``*/vis_data/scalars.json`` (several after resuming).

    Returns:
        One dict a line with its finite numbers; damaged lines are left out.
    """
    lines = []
    for file in [path] if path.is_file() else sorted(path.glob("*/vis_data/scalars.json")):
        if file.stat().st_size > _MAX_BYTES:
            continue
        for text in file.read_text(errors="replace").splitlines():
            try:
                line = json.loads(text)
            except (ValueError, RecursionError):  # a killed run may leave half a line
                continue
            if isinstance(line, dict):
                lines.append({k: float(v) for k, v in line.items() if _is_number(v)})
    return lines


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(float(value))
    except OverflowError:
        return False


def series(lines: Sequence[Mapping[str, float]], key: str) -> tuple[list[float], list[float]]:
    """Returns: Steps and values of one scalar, sorted by step."""
    points = {line["step"]: line[key] for line in lines if key in line and "step" in line}
    steps = sorted(points)
    return steps, [points[step] for step in steps]


def thin(points: Points, limit: int = _POINTS) -> Points:
    """Average neighbouring points, so that long runs stay small and readable.

    Args:
        points: Steps and values.
        limit: Largest number of points.

    Returns:
        At most ``limit`` points: means over equal numbers of neighbours; the last point is kept.
    """
    steps, values = points
    if len(steps) <= limit:
        return points
    size = -(-len(steps) // (limit - 1))
    starts = range(0, len(steps), size)
    means = [statistics.fmean(values[i : i + size]) for i in starts]
    places = [statistics.fmean(steps[i : i + size]) for i in starts]
    if places[-1] != steps[-1]:
        places, means = [*places, steps[-1]], [*means, values[-1]]
    return places, means


def ticks(low: float, high: float, wanted: int = 4) -> list[float]:
    """Returns: Round numbers from a range, a step of 1, 2 or 5 times a power of ten apart."""
    span = high - low
    power = 10 ** math.floor(math.log10(span / wanted))
    step = min((k * power for k in (1, 2, 5, 10)), key=lambda s: abs(span / s - wanted))
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def draw(title: str, y_title: str, lines: Mapping[str, Points]) -> Chart | None:
    """Draw lines into one chart.

    Args:
        title: What is drawn.
        y_title: What the values are.
        lines: Name -> steps and values.

    Returns:
        The chart; None if no line has two points.
    """
    kept = {name: thin(points) for name, points in lines.items() if len(points[0]) > 1}
    if not kept:
        return None
    xs = [x for steps, _ in kept.values() for x in steps]
    ys = [y for _, values in kept.values() for y in values]
    box = _Box(min(xs), max(xs), *_widen(min(ys), max(ys)))
    parts = [box.axes(y_title)]
    for place, points in enumerate(kept.values()):
        path = " ".join(f"{box.x(x):.1f},{box.y(y):.1f}" for x, y in zip(*points, strict=True))
        parts.append(f'<polyline class="line line-{place % COLORS}" points="{path}"/>')
    ends = "; ".join(f"{clean(name)} ends at {values[-1]:.4g}" for name, (_, values) in kept.items())
    label = quoteattr(f"{clean(title)}, {clean(y_title)} by iteration: {ends}")
    head = f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label={label}>'
    legend = tuple((place % COLORS, clean(name)) for place, name in enumerate(kept))
    return Chart(f"{clean(title)}, {clean(y_title)}", head + "".join(parts) + "</svg>", legend)


def _widen(low: float, high: float) -> tuple[float, float]:
    margin = (high - low) * 0.05 or abs(high) * 0.05 or 1.0
    return low - margin, high + margin


@dataclass(frozen=True)
class _Box:
    """Data coordinates to those of the picture."""

    x0: float
    x1: float
    y0: float
    y1: float

    def x(self, value: float) -> float:
        width = (self.x1 - self.x0) or 1.0
        return _LEFT + (value - self.x0) / width * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        return _HEIGHT - _BOTTOM - (value - self.y0) / (self.y1 - self.y0) * (_HEIGHT - _TOP - _BOTTOM)

    def axes(self, y_title: str) -> str:
        parts = []
        for tick in ticks(self.y0, self.y1):
            y = self.y(tick)
            parts.append(
                f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            )
            parts.append(f'<text x="{_LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{short(tick)}</text>')
        for tick in ticks(self.x0, self.x1) if self.x1 > self.x0 else []:
            x = self.x(tick)
            parts.append(
                f'<text x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 14}" text-anchor="middle">{short(tick)}</text>'
            )
        middle = (_LEFT + _WIDTH - _RIGHT) / 2
        parts.append(f'<text x="{middle}" y="{_HEIGHT - 3}" text-anchor="middle">iteration</text>')
        turn = f"translate(9 {(_TOP + _HEIGHT - _BOTTOM) / 2}) rotate(-90)"
        parts.append(f'<text transform="{turn}" text-anchor="middle">{escape(clean(y_title))}</text>')
        return f'<g class="axes">{"".join(parts)}</g>'


def short(value: float) -> str:
    """Returns: A tick's number, thousands and millions as k and M."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:.10g}" if abs(value) < 1e-12 else f"{float(f'{value:.6g}'):g}"
