"""How large a difference seeds alone make: from published runs, else from the measured spread."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

# Student's t, two-sided 95 %, for 1 to 30 degrees of freedom (Student 1908; any table of statistics).
_T95 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
# Expected range of n normal values in standard deviations, for 2 to 10 values (the control-chart constant d2).
_RANGE = (1.128, 1.693, 2.059, 2.326, 2.534, 2.704, 2.847, 2.970, 3.078)


@dataclass(frozen=True)
class Noise:
    """Spread over seeds that somebody published.

    Attributes:
        protocol: Protocol key.
        metric: Metric key.
        backbone: Architecture; empty for any.
        runs: How many runs it was taken from.
        std: Standard deviation, in the metric's unit.
        source: Key of the source.
        where: Place in the source.
    """

    protocol: str
    metric: str
    backbone: str
    runs: int
    std: float
    source: str
    where: str

    @classmethod
    def build(
        cls, protocol: str, metric: str, runs: int, source: str, where: str, backbone: str = "", **given: Any
    ) -> Noise:
        """Make it from ``values`` of single runs, from their ``range``, or from a printed ``std``.

        Args:
            protocol: Protocol key.
            metric: Metric key.
            runs: Number of runs, at least 2.
            source: Key of the source.
            where: Place in the source.
            backbone: Architecture; empty for any.
            **given: Exactly one of ``values``, ``range``, ``std``.

        Returns:
            The noise.

        Raises:
            ValueError: If none or several are given, or their number is not ``runs``.
        """
        if len(given) != 1:
            raise ValueError(f"noise of {protocol}: give one of values, range, std")
        (name, value), *_ = given.items()
        if name == "values" and len(value) == runs > 1:
            std = statistics.stdev(map(float, value))
        elif name == "range" and 2 <= runs <= 10:
            std = float(value[1] - value[0]) / _RANGE[runs - 2]
        elif name == "std" and runs > 1:
            std = float(value)
        else:
            raise ValueError(f"noise of {protocol}: {name} does not fit {runs} runs")
        return cls(protocol, metric, backbone, runs, std, source, where)


@dataclass(frozen=True)
class Limit:
    """The largest difference to one published run that seeds explain, with 95 % certainty.

    Attributes:
        value: In the metric's unit.
        measured: Whether it is from the measured runs themselves instead of published ones.
        noise: The published spread; None if measured.
    """

    value: float
    measured: bool
    noise: Noise | None = None


def t95(freedom: int) -> float:
    """Returns: Student's t, two-sided 95 %, for some degrees of freedom."""
    return _T95[min(freedom, len(_T95)) - 1]


def spread(values: Sequence[float]) -> float | None:
    """Returns: Sample standard deviation; None for fewer than two values."""
    return statistics.stdev(values) if len(values) > 1 else None


def limit(values: Sequence[float], noise: Noise | None) -> Limit | None:
    """How far the mean of some runs may be from one other run of the same thing.

    The standard deviation of that difference is ``s sqrt(1 + 1/n)``, for n runs; its 95 % quantile with ``s`` estimated
    from m runs is Student's t with m - 1 degrees of freedom (prediction interval of a normal sample).

    Args:
        values: The measured runs.
        noise: A published spread, which is preferred.

    Returns:
        The limit; None if neither a published spread nor two runs are known.
    """
    if not values:
        return None
    wide = math.sqrt(1 + 1 / len(values))
    if noise:
        return Limit(t95(noise.runs - 1) * noise.std * wide, False, noise)
    std = spread(values)
    return None if std is None else Limit(t95(len(values) - 1) * std * wide, True)
