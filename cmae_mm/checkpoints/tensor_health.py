"""What single tensors look like, and what is odd about many of them together."""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch

_NORM = re.compile(r"(^|\.)(\w*norm\w*|ln\w*)\.(weight|bias)$")
_COUNTERS = ("num_batches_tracked", "_index", "position_ids")  # whole numbers that belong there
_OUTLIER = 10.0  # times the median of the norms of like blocks


@dataclass(frozen=True)
class Look:
    """One tensor in numbers.

    Attributes:
        name: Its key.
        shape: Its shape.
        dtype: Its type, without ``torch.``.
        norm: Euclidean norm of its finite values.
        bad: Values that are not finite.
        low: Smallest finite value; 0 if there is none.
        high: Largest finite value; 0 if there is none.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    norm: float
    bad: int
    low: float
    high: float

    @property
    def count(self) -> int:
        """Values in the tensor."""
        return int(torch.Size(self.shape).numel())

    @property
    def constant(self) -> bool:
        """Whether it holds one value only, more than once."""
        return self.count > 1 and not self.bad and self.low == self.high

    @property
    def real(self) -> bool:
        """Whether it holds real numbers, as weights do."""
        return "float" in self.dtype


def look_at(name: str, tensor: torch.Tensor) -> Look:
    """Measure one tensor.

    Args:
        name: Its key.
        tensor: Any dense tensor on the CPU; complex values are taken by magnitude.
    """
    values = (tensor.detach().abs() if tensor.is_complex() else tensor.detach()).double()
    finite = values[torch.isfinite(values)]
    low, high = (float(x) for x in finite.aminmax()) if finite.numel() else (0.0, 0.0)
    return Look(
        name=name,
        shape=tuple(tensor.shape),
        dtype=str(tensor.dtype).removeprefix("torch."),
        norm=float(finite.norm()) if finite.numel() else 0.0,
        bad=values.numel() - finite.numel(),
        low=low,
        high=high,
    )


def oddities(looks: Sequence[Look]) -> list[str]:
    """What is worth a second look, most serious first.

    Args:
        looks: All tensors of one model.

    Returns:
        Sentences, none for a healthy model.
    """
    found = [
        f"{look.name}: {look.bad} of {look.count} values are not finite: training diverged, or the file is damaged"
        for look in looks
        if look.bad
    ]
    norms = [look for look in looks if _NORM.search(look.name)]
    fresh = len(norms) > 1 and all(
        look.constant and look.low == look.name.endswith(".weight") for look in norms
    )
    if fresh:
        found.append(
            f"all {len(norms)} tensors of the norms have weights of 1 and biases of 0: it looks untrained"
        )
    rest = [look for look in looks if look.constant and look.real and not (fresh and look in norms)]
    found += _together([look for look in rest if look.low == 0], "are all zero")
    found += _together([look for look in rest if look.low != 0], "hold a single value")
    strange = [look for look in looks if not look.real and not look.name.endswith(_COUNTERS)]
    return found + _together(strange, "hold no real numbers")


def odd_blocks(norms: dict[str, float]) -> list[str]:
    """Blocks that are copies of each other, or far from the others.

    Args:
        norms: Name of each of several blocks alike to the norm of its weights.

    Returns:
        Sentences.
    """
    found = []
    middle = statistics.median(norms.values()) if norms else 0.0
    first: dict[float, str] = {}
    for name, norm in norms.items():
        if norm and first.setdefault(norm, name) != name:
            found.append(f"{name} has exactly the norm of {first[norm]}: it may be a copy")
        if len(norms) > 2 and norm > _OUTLIER * middle > 0:
            found.append(f"{name} has a norm of {norm:.4g}, {norm / middle:.0f} times the median of its like")
    return found


def _together(looks: Sequence[Look], words: str) -> list[str]:
    if not looks:
        return []
    names = ", ".join(look.name for look in looks[:3]) + (", ..." if len(looks) > 3 else "")
    return [f"{len(looks)} tensors {words} ({names})"]
