"""mmseg's IoU metric, counted on the device, at full precision, with boundaries and a table of classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmengine.dist import all_reduce, get_rank, get_world_size
from mmengine.logging import print_log
from mmseg.evaluation import IoUMetric
from mmseg.registry import METRICS
from prettytable import PrettyTable
from torch import Tensor

from cmae_mm.errors import UserError
from cmae_mm.transfer.class_table import ClassTable
from cmae_mm.transfer.confusion import boundary_areas, confusion_matrices


@METRICS.register_module()
class CMAESegMetric(IoUMetric):
    """mIoU, aAcc, mAcc and Boundary IoU in percent; each class in a table.

    mmseg counts each image in float32, sends four vectors an image to the CPU and through pickle to the main
    process, and rounds to two decimals. Here one int64 confusion matrix stays on the device until the end and is
    summed over the processes. What is computed from it is mmseg's: a class that occurs neither in the
    truth nor in a prediction is left out of the means.

    A sampler that gives all processes equally many images repeats some at the end; they count once, as in
    mmengine: image k of process r is number r + k * processes.

    Args:
        dilation_ratio: Width of the boundary over the image's diagonal, see
            :func:`~cmae_mm.transfer.confusion.boundary_areas`; None leaves Boundary IoU out.
        **kwargs: See ``mmseg.evaluation.IoUMetric``; ``iou_metrics`` may add mDice and mFscore.
    """

    def __init__(self, dilation_ratio: float | None = 0.02, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dilation_ratio = dilation_ratio
        self.writer = None
        if self.output_dir is not None:
            self.writer = IoUMetric(output_dir=self.output_dir, format_only=True)
        self._forget()

    def _forget(self) -> None:
        self._seen = 0
        self._sum: Tensor | None = None
        self._last: Tensor | None = None  # apart, because it may be a repetition

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """Count a batch.

        Args:
            data_batch: Unused.
            data_samples: Each with ``pred_sem_seg`` and ``gt_sem_seg``: (1, H, W) label maps under ``data``.
        """
        if self.writer is not None:
            self.writer.dataset_meta = self.dataset_meta
            self.writer.process(data_batch, data_samples)
        if self.format_only:
            return
        given = [s["pred_sem_seg"]["data"].squeeze(0) for s in data_samples]
        true = [
            s["gt_sem_seg"]["data"].squeeze(0).to(g.device) for s, g in zip(data_samples, given, strict=True)
        ]
        rows = self._count(given, true)
        if self._sum is None or self._last is None:
            self._sum, self._last = torch.zeros_like(rows[0]), rows[:0]
        rows = torch.cat((self._last, rows))
        self._sum += rows[:-1].sum(dim=0)
        self._last = rows[-1:]
        self._seen += len(data_samples)

    @property
    def _classes(self) -> int:
        return len(self.dataset_meta["classes"])

    def _count(self, given: Sequence[Tensor], true: Sequence[Tensor]) -> Tensor:
        """One row an image: 1, the confusion matrix and the three areas of boundaries, flat."""
        matrices = confusion_matrices(given, true, self._classes, self.ignore_index)
        ones = matrices.new_ones(len(matrices), 1)
        edges = matrices.new_zeros(len(matrices), 3, self._classes)
        if self.dilation_ratio is not None:
            for size in {t.shape for t in true}:
                same = [k for k, t in enumerate(true) if t.shape == size]
                shown, wanted = (torch.stack([part[k] for k in same]) for part in (given, true))
                edges[same] = boundary_areas(
                    shown, wanted, self._classes, self.dilation_ratio, self.ignore_index
                )
        return torch.cat((ones, matrices.flatten(1), edges.flatten(1)), dim=1)

    def evaluate(self, size: int) -> dict[str, Any]:
        """Sum over the processes, compute, forget.

        Args:
            size: Images of the data set.

        Returns:
            What :meth:`compute_metrics` returns, under the prefix if there is one; the same in every process.

        Raises:
            UserError: If no image was evaluated.
        """
        if self.format_only:
            return {}
        bins = self._classes + 1
        total = torch.zeros(1 + bins * bins + 3 * self._classes, dtype=torch.int64)
        if self._sum is not None and self._last is not None:
            repeated = get_rank() + (self._seen - 1) * get_world_size() >= size
            total = self._sum if repeated else self._sum + self._last[0]
        self._forget()
        all_reduce(total)
        metrics = self.compute_metrics(total.cpu())
        return {f"{self.prefix}/{k}" if self.prefix else k: v for k, v in metrics.items()}

    def compute_metrics(self, results: Tensor) -> dict[str, Any]:
        """Scores of the summed counts.

        Args:
            results: One row of counts, see :meth:`process`.

        Returns:
            ``aAcc``, ``mIoU``, ``mAcc``, ``mBIoU`` (and what ``iou_metrics`` adds) in percent, and ``per_class``, a
            :class:`ClassTable` with None where a class does not occur.

        Raises:
            UserError: If no image was evaluated.
        """
        if not results[0]:
            raise UserError("no image was evaluated: the validation or test set is empty; check its folders")
        k = self._classes
        matrix = results[1 : 1 + (k + 1) ** 2].view(k + 1, k + 1)
        both, given, true = matrix.diagonal()[:k], matrix.sum(dim=0)[:k], matrix.sum(dim=1)[:k]
        areas = [a.double() for a in (both, given + true - both, given, true)]
        scores = self.total_area_to_metrics(*areas, self.metrics, self.nan_to_num, self.beta)
        if self.dilation_ratio is not None:
            near, near_given, near_true = results[1 + (k + 1) ** 2 :].view(3, k).double()
            scores["BIoU"] = (near / (near_given + near_true - near)).numpy()
        return self._summary({name: 100 * values for name, values in scores.items()})

    def _summary(self, scores: dict[str, Any]) -> dict[str, Any]:
        metrics: dict[str, Any] = {"aAcc": float(scores.pop("aAcc"))}
        metrics |= {f"m{name}": float(np.nanmean(values)) for name, values in scores.items()}
        table, printed = ClassTable(), PrettyTable(["Class", *scores])
        for k, name in enumerate(self.dataset_meta["classes"]):
            numbers = {key: float(values[k]) for key, values in scores.items()}
            table[name] = {key: None if np.isnan(v) else v for key, v in numbers.items()}
            printed.add_row([name, *(f"{v:.2f}" for v in numbers.values())])
        print_log(f"per class results:\n{printed.get_string()}", logger="current")
        return {**metrics, "per_class": table}
