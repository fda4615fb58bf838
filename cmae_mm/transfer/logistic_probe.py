"""Logistic regression on cached features: DINOv2's protocol with scikit-learn's L-BFGS."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmpretrain.registry import TASK_UTILS

from cmae_mm.engine.run_metadata import write_json
from cmae_mm.errors import UserError
from cmae_mm.transfer.feature_table import FeatureTable
from cmae_mm.transfer.probe_task import Outcome, Task, hits

STATE = "logistic.json"


def held_out(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Choose a share of each class, at least one image of each that has two.

    Args:
        labels: (N,) int64.
        share: Between 0 and 1.
        seed: Of the draw.

    Returns:
        (N,) bool.
    """
    chosen = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        count = min(max(1, round(share * len(members))), len(members) - 1)
        chosen[np.random.default_rng((seed, int(label))).permutation(members)[:count]] = True
    return chosen


@TASK_UTILS.register_module()
class LogisticProbe:
    """Multinomial logistic regression with an L2 penalty and an intercept, in float64.

    The strength C is chosen on a share of each class of the training images that is held out; then all of them are
    fitted again with it. Features are taken as they are, without normalisation (DINOv2).

    Args:
        parts: Parts of the encoder.
        strengths: Values of C; the default are DINOv2's 45, 1e-6 to 1e5.
        max_iter: Of L-BFGS.
        tolerance: Of L-BFGS.
        share: Held out for the choice.

    Raises:
        UserError: An argument is out of range.
    """

    shared = False

    def __init__(
        self,
        parts: Sequence[str] = ("cls-1",),
        strengths: Sequence[float] = tuple(10.0 ** np.linspace(-6, 5, 45)),
        max_iter: int = 1000,
        tolerance: float = 1e-12,
        share: float = 0.1,
    ) -> None:
        self.parts = list(parts)
        self.strengths = sorted(float(c) for c in strengths)
        self.max_iter, self.tolerance, self.share = max_iter, tolerance, share
        if not self.strengths or self.strengths[0] <= 0:
            raise UserError(f"probe.strengths is {list(strengths)}; set numbers above 0")
        if not 0 < share < 1:
            raise UserError(f"probe.share is {share}; set a fraction between 0 and 1")

    def run(self, task: Task) -> Outcome | None:
        """Choose C, fit, classify.

        Args:
            task: Features. Fits that an earlier, stopped run has made are not made again.

        Returns:
            One evaluation: ``accuracy/top1`` and ``top5``; the notes have C and what each C reached.
        """
        x, y = _double(task.train), task.train.labels.numpy()
        held = held_out(y, self.share, task.seed)
        scores = self._search(x[~held], y[~held], x[held], y[held], task)
        best = max(scores, key=lambda c: (scores[c], -c))  # of equal ones the strongest penalty
        task.log(
            f"logistic regression: C {best:g} reaches {scores[best]:.2f} % held out; fitting all {len(y):,} images"
        )
        first, five = self._evaluate(
            self._fit(x, y, best), _double(task.val), task.val.labels.numpy(), task.train.classes
        )
        notes = {
            "C": best,
            "held_out": {f"{c:g}": value for c, value in scores.items()},
            "held_out_images": int(held.sum()),
        }
        return Outcome([{"accuracy/top1": first, "accuracy/top5": five}], {"logistic": notes})

    def _search(
        self, x: np.ndarray, y: np.ndarray, x_held: np.ndarray, y_held: np.ndarray, task: Task
    ) -> dict[float, float]:
        """Held-out accuracy of each C; each fit starts where the one before ended."""
        if not len(y_held):
            task.log("logistic regression: too few images to hold any out; C is the middle of the list")
            return {self.strengths[len(self.strengths) // 2]: 0.0}
        note = task.work_dir / STATE
        scores = _earlier(note, self.strengths)
        model: Any = None
        for c in self.strengths:
            if c in scores:
                continue
            start = time.monotonic()
            model = self._fit(x, y, c, model)
            scores[c] = 100 * float((model.predict(x_held) == y_held).mean())
            write_json(note, {repr(k): v for k, v in scores.items()})
            task.log(
                f"logistic regression: C {c:g}, held out {scores[c]:.2f} %, {time.monotonic() - start:.1f} s"
            )
        return scores

    def _fit(self, x: np.ndarray, y: np.ndarray, c: float, before: Any = None) -> Any:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression

        model = before or LogisticRegression(
            solver="lbfgs", max_iter=self.max_iter, tol=self.tolerance, warm_start=True
        )
        model.set_params(C=c)
        with warnings.catch_warnings():  # at a tolerance of 1e-12 it stops by the number of iterations
            warnings.simplefilter("ignore", ConvergenceWarning)
            return model.fit(x, y)

    def _evaluate(self, model: Any, x: np.ndarray, y: np.ndarray, classes: int) -> tuple[float, float]:
        """Top-1 and top-5 in percent."""
        found = model.decision_function(x)
        if found.ndim == 1:  # two classes
            found = np.stack([-found, found], axis=1)
        scores = torch.full((len(x), classes), -torch.inf, dtype=torch.float64)
        scores[:, torch.from_numpy(model.classes_)] = torch.from_numpy(found)
        first, five = hits(scores, torch.from_numpy(y))
        return 100 * first / len(y), 100 * five / len(y)


def _double(table: FeatureTable) -> np.ndarray:
    return table.take(slice(None)).double().numpy()


def _earlier(note: Path, strengths: Sequence[float]) -> dict[float, float]:
    """What a stopped run has found."""
    try:
        found = {float(k): float(v) for k, v in json.loads(note.read_text()).items()}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return {}
    return {c: found[c] for c in strengths if c in found}
