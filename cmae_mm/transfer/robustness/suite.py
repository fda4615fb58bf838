"""Which sets are seen with which transform, what is counted on each, and what the record says of it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmpretrain.registry import DATASETS
from torch import nn

from cmae_mm.data.corruptions import CORRUPTIONS, SEVERITIES, check_corruptions
from cmae_mm.data.imagenet_layout import wnids
from cmae_mm.data.progress import CountLine
from cmae_mm.transfer.robustness.corruption_error import corruption_scores
from cmae_mm.transfer.robustness.evaluate import evaluate
from cmae_mm.transfer.robustness.image_sets import (
    ImageSet,
    classes_of,
    corruption_folders,
    folder_set,
    own_set,
    read_real_labels,
    v2_set,
)
from cmae_mm.transfer.robustness.images import Corruptions, TestImages, pixel_steps
from cmae_mm.transfer.robustness.scores import Accuracy, RealAccuracy, Score

V2 = {"v2": "v2-matched-frequency", "v2-threshold": "v2-threshold0.7", "v2-top": "v2-top-images"}
MASKED = {"a": "imagenet-a", "r": "imagenet-r"}


class RobustnessTest:
    """One classifier, all sets.

    Args:
        model: With its data preprocessor, in evaluation mode.
        cfg: Config of a classifier.
        args: Of the command line: corruptions, severities, limit, limit_seed, no_jpeg, c_transform.
    """

    def __init__(self, model: nn.Module, cfg: Any, args: argparse.Namespace) -> None:
        self.model, self.args = model, args
        loader = cfg.test_dataloader
        self.pipeline = loader.dataset.pipeline
        self.batch_size, self.workers = loader.batch_size, loader.get("num_workers", 0)
        dataset = DATASETS.build(loader.dataset)
        self.classes = classes_of(dataset)
        self.own = own_set(dataset)
        self.notes: dict[str, Any] = {}

    def run(self, places: dict[str, Path]) -> dict[str, Any]:
        """Test on all sets.

        Args:
            places: Name of a set to its path.

        Returns:
            Metrics by name, in %; and tables.
        """
        found: dict[str, Any] = {}
        if {"clean", "real"} & set(places):
            found |= self._own_images(places)
        for name in (n for n in V2 if n in places):
            found |= self._plain(v2_set(V2[name], places[name], self.classes))
        for name in (n for n in MASKED if n in places):
            found |= self._plain(folder_set(MASKED[name], places[name], self.classes))
        if "sketch" in places:
            found |= self._plain(folder_set("imagenet-sketch", places["sketch"], self.classes, masked=False))
        if "c" in places:
            found |= self._published_corruptions(places["c"])
        if "generated" in places:
            found |= self._generated_corruptions()
        return found

    def _own_images(self, places: dict[str, Path]) -> dict[str, Any]:
        """One pass over the own images for clean, ReaL, and clean on the classes of A and R."""
        images = self._part(self.own)
        scores: list[Score] = [Accuracy("clean", images.labels)]
        for name in (n for n in MASKED if n in places):
            columns = folder_set(MASKED[name], places[name], self.classes).columns
            scores.append(Accuracy(f"clean-{MASKED[name]}-classes", images.labels, columns))
        if "real" in places:
            labels = read_real_labels(places["real"], images.files)
            scores.append(RealAccuracy("real", labels, len(self.classes)))
        return self._count(images, pixel_steps(self.pipeline), scores)

    def _plain(self, images: ImageSet) -> dict[str, Any]:
        images = self._part(images)
        score = Accuracy(images.name, images.labels, images.columns)
        return self._count(images, pixel_steps(self.pipeline), [score])

    def _published_corruptions(self, root: Path) -> dict[str, Any]:
        """ImageNet-C's files, of corruptions and severities that were asked for and are there."""
        folders = corruption_folders(root)
        steps = pixel_steps(self.pipeline, crop_only=self.args.c_transform == "crop")
        table: dict[str, dict[int, float]] = {}
        for kind, level in self._kinds(folders):
            if level not in folders.get(kind, {}):
                continue
            name = f"imagenet-c/{kind}/{level}"
            images = self._part(folder_set(name, folders[kind][level], self.classes, masked=False))
            accuracy = self._count(images, steps, [Accuracy(name, images.labels)])[f"{name}/top1"]
            table.setdefault(kind, {})[level] = 100 - accuracy
        self.notes["imagenet-c"] = {"transform": self.args.c_transform}
        return self._summary("imagenet-c", table)

    def _generated_corruptions(self) -> dict[str, Any]:
        """All corruptions from one reading of each image."""
        kinds = self._kinds(CORRUPTIONS)
        check_corruptions(sorted({kind for kind, _ in kinds}), sorted({level for _, level in kinds}))
        options = Corruptions(tuple(kinds), self.args.limit_seed, not self.args.no_jpeg)
        images = self._part(self.own)
        scores = [Accuracy(f"generated/{kind}/{level}", images.labels) for kind, level in kinds]
        dataset = TestImages(images, pixel_steps(self.pipeline), options)
        print(f"generated: {len(kinds)} versions of {len(images.files)} images")
        evaluate(
            self.model, dataset, [[s] for s in scores], self.batch_size, self.workers, CountLine("images")
        )
        table: dict[str, dict[int, float]] = {}
        for (kind, level), score in zip(kinds, scores, strict=True):
            table.setdefault(kind, {})[level] = 100 - score.result()[f"{score.name}/top1"]
        self._note(
            "generated", images, seed=options.seed, jpeg=options.jpeg, comparable="IN-C (generated) only"
        )
        return self._summary("generated", table)

    def _summary(self, name: str, table: dict[str, dict[int, float]]) -> dict[str, Any]:
        """The table of errors as ``corruption/severity`` too, since a record's metrics are flat."""
        alexnet = self.classes == wnids()
        scores = {f"{name}/{key}": value for key, value in corruption_scores(table, alexnet).items()}
        flat = {f"{name}/{kind}/{s}/error": e for kind, row in table.items() for s, e in row.items()}
        return scores | flat

    def _kinds(self, every: Sequence[str] | dict[str, Any]) -> list[tuple[str, int]]:
        names = self.args.corruptions or [n for n in CORRUPTIONS if n in every]
        return [(name, level) for name in names for level in self.args.severities or SEVERITIES]

    def _count(self, images: ImageSet, steps: list[dict[str, Any]], scores: list[Score]) -> dict[str, Any]:
        print(f"{images.name}: {len(images.files)} images")
        dataset = TestImages(images, steps)
        evaluate(self.model, dataset, [scores], self.batch_size, self.workers, CountLine("images"))
        self._note(images.name, images)
        return {key: value for score in scores for key, value in score.result().items()}

    def _part(self, images: ImageSet) -> ImageSet:
        return images.subset(self.args.limit, self.args.limit_seed)

    def _note(self, name: str, images: ImageSet, **more: Any) -> None:
        classes = len(self.classes) if images.columns is None else len(images.columns)
        self.notes[name] = {"images": len(images.files), "classes": classes, "limit": self.args.limit, **more}
