"""What every probe of frozen features gets and gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from cmae_mm.transfer.feature_table import FeatureTable


@dataclass(frozen=True)
class Task:
    """Features and where to compute.

    Args:
        train: Labelled features to learn from.
        val: Features to be classified; their first view counts.
        device: Where to compute.
        seed: Of the run.
        work_dir: For what is needed to go on after a stop.
        log: Takes sentences.
    """

    train: FeatureTable
    val: FeatureTable
    device: torch.device
    seed: int
    work_dir: Path
    log: Callable[[str], None] = print


@dataclass(frozen=True)
class Outcome:
    """What a probe found.

    Args:
        history: The metrics of each evaluation, the last one last; accuracies in percent.
        notes: What else belongs into the record.
    """

    history: list[dict[str, Any]]
    notes: dict[str, Any] = field(default_factory=dict)


class Probe(Protocol):
    """A way to classify frozen features."""

    parts: list[str]
    """Parts of the encoder that it looks at, side by side."""
    shared: bool
    """Whether all processes take part; otherwise the first one works alone."""

    def run(self, task: Task) -> Outcome | None:
        """Classify; None in processes that take no part."""


def hits(scores: Tensor, labels: Tensor, top: int = 5) -> tuple[int, int]:
    """Count correct predictions.

    Args:
        scores: (N, K), the higher the better.
        labels: (N,).
        top: How many guesses the second count allows.

    Returns:
        Correct at the first guess, and within ``top`` guesses.
    """
    first = int((scores.argmax(dim=1) == labels).sum())
    guesses = scores.topk(min(top, scores.shape[1]), dim=1).indices
    return first, int((guesses == labels[:, None]).any(dim=1).sum())
