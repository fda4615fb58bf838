"""COCO's twelve numbers at full precision, with a table of classes, from the compiled evaluator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from faster_coco_eval import COCO, COCOeval_faster
from faster_coco_eval.core import mask as mask_api
from mmdet.evaluation import FasterCocoMetric
from mmdet.registry import METRICS
from mmengine.fileio import dump
from mmengine.logging import print_log
from numpy.typing import NDArray

from cmae_mm.transfer.class_table import ClassTable
from cmae_mm.transfer.mask_codes import encode_masks

_SIZES = ("", "_s", "_m", "_l")  # the order of COCO's area ranges: all, below 32^2, to 96^2, above


@METRICS.register_module()
class CMAECocoMetric(FasterCocoMetric):
    """Box and mask AP and AR as pycocotools computes them, but faster and without rounding.

    mmdet rounds to three decimals and drops AR; it also sends all predictions through a file, and returns
    nothing where a model finds nothing. Only images that were predicted count, so that a part of a data
    set can be evaluated; the log says so.

    Args:
        ann_file: COCO annotation file of the ground truth.
        metric: ``bbox``, ``segm`` or both.
        proposal_nums: Most detections of an image for the three average recalls, rising; the last one holds
            for AP too. COCO's own are 1, 10 and 100.
        **kwargs: See ``mmdet.evaluation.CocoMetric``; ``outfile_prefix`` also keeps the predictions, as
            ``<prefix>.bbox.json`` and ``<prefix>.segm.json``.

    Raises:
        ValueError: For another metric.
    """

    def __init__(
        self,
        ann_file: str,
        metric: str | Sequence[str] = ("bbox", "segm"),
        proposal_nums: Sequence[int] = (1, 10, 100),
        **kwargs: Any,
    ) -> None:
        kinds = [metric] if isinstance(metric, str) else list(metric)
        if other := set(kinds) - {"bbox", "segm"}:
            raise ValueError(
                f"CMAECocoMetric computes bbox and segm; for {sorted(other)} use mmdet's CocoMetric"
            )
        super().__init__(ann_file=ann_file, metric=kinds, proposal_nums=proposal_nums, **kwargs)

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """Keep the predictions of a batch; masks are encoded at once.

        Args:
            data_batch: Unused.
            data_samples: Each with ``img_id``, ``ori_shape`` and ``pred_instances``: ``bboxes`` (n, 4),
                ``scores`` and ``labels`` (n,), and ``masks``, (n, H, W) or run lengths.
        """
        samples = []
        for sample in data_samples:
            found = dict(sample["pred_instances"])
            if "masks" in found:
                found["masks"] = _codes(found["masks"])
            samples.append({**sample, "pred_instances": found})
        super().process(data_batch, samples)

    def compute_metrics(self, results: list[Any]) -> dict[str, Any]:
        """Evaluate all predictions.

        Args:
            results: Ground truth (unused: it comes from ``ann_file``) and prediction of each image.

        Returns:
            For each kind ``{kind}_mAP`` (``_50``, ``_75``, ``_s``, ``_m``, ``_l``) and ``{kind}_AR@{n}`` (and
            ``_s``, ``_m``, ``_l``) in [0, 1], -1 where the ground truth has nothing of that size; and
            ``{kind}_per_class``, a :class:`ClassTable` with None in place of -1.
        """
        api, found = self._coco_api, [prediction for _, prediction in results]
        self.cat_ids = api.get_cat_ids(cat_names=self.dataset_meta["classes"])
        self.img_ids = [image["img_id"] for image in found]
        if len(self.img_ids) < len(api.imgs):
            print_log(f"COCO metric: {len(self.img_ids)} of {len(api.imgs)} images were predicted", "current")
        metrics: dict[str, Any] = {}
        for kind in self.metrics:
            rows = self._rows(found, kind)
            if self.outfile_prefix is not None:
                dump(rows, f"{self.outfile_prefix}.{kind}.json")
            if not self.format_only:
                metrics |= self._evaluate(kind, rows)
        return metrics

    def _rows(self, found: Sequence[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
        """Predictions as COCO's JSON has them."""
        rows = []
        for image in found:
            boxes = image["bboxes"].astype(np.float64)
            boxes[:, 2:] -= boxes[:, :2]
            scores = image["scores"] if kind == "bbox" else image.get("mask_scores", image["scores"])
            columns = [boxes.tolist(), scores.tolist(), image["labels"].tolist()]
            for k, (box, score, label) in enumerate(zip(*columns, strict=True)):
                row = {
                    "image_id": image["img_id"],
                    "category_id": self.cat_ids[label],
                    "bbox": box,
                    "score": score,
                }
                if kind == "segm":
                    row["segmentation"] = image["masks"][k]
                rows.append(row)
        return rows

    def _evaluate(self, kind: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
        evaluation = COCOeval_faster(self._coco_api, self._results(kind, rows), kind)
        evaluation.params.catIds, evaluation.params.imgIds = self.cat_ids, self.img_ids
        evaluation.params.maxDets, evaluation.params.iouThrs = self.proposal_nums, self.iou_thrs
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        counts = self.proposal_nums
        names = ["mAP", "mAP_50", "mAP_75", "mAP_s", "mAP_m", "mAP_l"]
        names += [f"AR@{n}" for n in counts] + [f"AR{size}@{counts[-1]}" for size in _SIZES[1:]]
        numbers = {f"{kind}_{n}": float(v) for n, v in zip(names, evaluation.stats, strict=True)}
        classes = [category["name"] for category in self._coco_api.load_cats(self.cat_ids)]
        return {**numbers, f"{kind}_per_class": class_table(evaluation.eval, classes, self.iou_thrs)}

    def _results(self, kind: str, rows: list[dict[str, Any]]) -> COCO:
        """What ``loadRes`` makes of predictions, with areas computed in one call."""
        if kind == "bbox":
            areas = [row["bbox"][2] * row["bbox"][3] for row in rows]
        else:
            # pycocotools.mask.area overflows beyond 255 masks
            areas = [float(area) for area in mask_api.area([row["segmentation"] for row in rows])]
        annotations = [
            {**row, "id": k, "area": area, "iscrowd": 0}
            for k, (row, area) in enumerate(zip(rows, areas, strict=True), start=1)
        ]
        whole = self._coco_api.dataset
        loaded = COCO()
        loaded.dataset = {
            "images": whole["images"],
            "categories": whole["categories"],
            "annotations": annotations,
        }
        loaded.createIndex()
        return loaded


def _codes(masks: Any) -> list[dict[str, Any]]:
    """Run lengths with text that can go into JSON."""
    if isinstance(masks, torch.Tensor):
        return encode_masks(masks)
    return [{**m, "counts": m["counts"].decode()} if isinstance(m["counts"], bytes) else m for m in masks]


def class_table(
    accumulated: dict[str, NDArray[np.float64]], classes: Sequence[str], thresholds: NDArray[np.float64]
) -> ClassTable:
    """AP and AR of each class.

    Args:
        accumulated: What the evaluator gathered: ``precision`` (IoU threshold, recall, class, size, most
            detections) and ``recall`` (without the second), -1 where there is no ground truth.
        classes: Names in the order of the third axis.
        thresholds: (T,) IoU thresholds.

    Returns:
        For each class ``AP``, ``AP_50``, ``AP_75`` (those among the thresholds), ``AP_s``, ``AP_m``, ``AP_l``
        and ``AR``, ``AR_s``, ``AR_m``, ``AR_l``, all with the highest number of detections; None where the
        ground truth has no such object.
    """
    precision = np.asarray(accumulated["precision"])[..., -1]
    recall = np.asarray(accumulated["recall"])[..., -1]
    columns = {f"AP{size}": _mean(precision[:, :, :, k], (0, 1)) for k, size in enumerate(_SIZES)}
    for value in (0.5, 0.75):
        for at in np.flatnonzero(np.isclose(thresholds, value)):
            columns[f"AP_{value * 100:.0f}"] = _mean(precision[at, :, :, 0], (0,))
    columns |= {f"AR{size}": _mean(recall[:, :, k], (0,)) for k, size in enumerate(_SIZES)}
    table = ClassTable()
    for k, name in enumerate(classes):
        table[name] = {key: None if np.isnan(v[k]) else float(v[k]) for key, v in columns.items()}
    return table


def _mean(values: NDArray[np.float64], axes: tuple[int, ...]) -> NDArray[np.float64]:
    """Mean of what is not -1; not a number where all is."""
    known = values > -1
    count = known.sum(axis=axes)
    total = np.where(known, values, 0.0).sum(axis=axes)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
