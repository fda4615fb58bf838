"""From a config to tables of features: the encoder, the data, the few labels that count, the cache."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.device import get_device
from mmengine.dist import broadcast_object_list, get_dist_info
from mmengine.logging import print_log
from mmpretrain.registry import DATASETS, MODELS
from torch.utils.data import Subset

from cmae_mm.data.few_labels import Choice, choose
from cmae_mm.engine.config import prepare_work_dir
from cmae_mm.engine.cpu import fit_to_cpu
from cmae_mm.engine.hooks import PROGRESS_FILE, SUBSET_FILE
from cmae_mm.errors import UserError
from cmae_mm.transfer.feature_cache import FeatureCache
from cmae_mm.transfer.feature_extraction import PRECISIONS, Loading, fill_cache
from cmae_mm.transfer.feature_images import digest_of_images, names_and_labels
from cmae_mm.transfer.feature_table import FeatureTable
from cmae_mm.transfer.frozen_features import FrozenFeatures, digest_of_weights


class ChosenImages(Subset):
    """Some images of a data set of mmpretrain."""

    def get_data_info(self, idx: int) -> dict[str, Any]:
        """See mmengine."""
        return self.dataset.get_data_info(int(self.indices[idx]))  # type: ignore[attr-defined]


class FeatureSource:
    """Makes tables of features of a config's data sets, all with one encoder.

    Args:
        cfg: Has ``model``, ``features`` (views, seed, storage, precision, also) and a ``{phase}_dataloader``.
        root: Folder of the caches.
        parts: What the probe looks at.

    Raises:
        UserError: The encoder lacks a part, a setting is unknown, or the file does not fit the encoder.
    """

    def __init__(self, cfg: Any, root: Path, parts: list[str]) -> None:
        self.cfg, self.root, self.parts = cfg, root, parts
        self.about: dict[str, Any] = {"parts": parts}
        self.subset: dict[str, Any] | None = None
        self._known_classes: tuple[str, ...] = ()
        if cfg.features.precision not in PRECISIONS:
            raise UserError(
                f"features.precision is {cfg.features.precision!r}; set one of {', '.join(PRECISIONS)}"
            )
        if cfg.features.views < 1:
            raise UserError(f"features.views is {cfg.features.views}; set 1 or more")
        model = dict(cfg.model)
        model.setdefault("data_preprocessor", cfg.get("data_preprocessor"))
        self.model: FrozenFeatures = MODELS.build(model)
        self.model.check_parts([*parts, *cfg.features.get("also", ())])
        self.model.init_weights()
        self._encoder = {"weights": digest_of_weights(self.model), "model": _plain(model)}
        if not torch.cuda.is_available():
            self.model = fit_to_cpu(self.model)  # type: ignore[assignment]
        self.model.to(get_device())
        if get_dist_info()[0] == 0:
            prepare_work_dir(root)

    def table(self, phase: str, subset: Any = None) -> FeatureTable:
        """Extract what is missing and give the features of a data set.

        Args:
            phase: ``train`` or ``val``; only the first has several views.
            subset: ``take``, ``seed`` and ``lists`` of :func:`~cmae_mm.data.few_labels.choose`; None for all images.
                If the features of all images are not there, only those of the chosen ones are extracted.
        """
        loader = self.cfg[f"{phase}_dataloader"]
        images = DATASETS.build(loader.dataset)
        names, labels = names_and_labels(images)
        classes = self._classes(images, labels, phase)
        views = self.cfg.features.views if phase == "train" else 1
        cache = self._cache(images, names, labels, loader)
        rows = None
        if subset is not None and subset.get("take") is not None:
            choice = choose(names, labels, **subset)
            rows = choice.rows
            self._note(choice, names, subset)
            if self._lacks(cache, views):
                images = ChosenImages(images, rows.tolist())
                names, labels, rows = [names[r] for r in rows], labels[rows], None
                cache = self._cache(images, names, labels, loader)
        watch = Path(self.cfg.work_dir) / PROGRESS_FILE
        parts = self.parts
        if self._lacks(cache, views):  # other probes will want the others
            parts = list(dict.fromkeys([*parts, *self.cfg.features.get("also", ())]))
        encoded = fill_cache(cache, self.model, images, parts, views, self._loading(loader), watch)
        self.about[phase] = {"cache": cache.key, "views": views, "images": cache.images, "encoded": encoded}
        maps = [[cache.read(part, view) for part in self.parts] for view in range(views)]
        return FeatureTable(maps, labels, classes, rows)

    def _lacks(self, cache: FeatureCache, views: int) -> bool:
        """Whether something must be extracted, as the first process sees it: all must go the same way."""
        found = [any(cache.missing(self.parts, view) for view in range(views))]
        broadcast_object_list(found)
        return found[0]

    def _classes(self, images: Any, labels: np.ndarray, phase: str) -> int:
        """Number of classes; those of all data sets must be the same, or labels would mean different things."""
        names = tuple((getattr(images, "metainfo", None) or {}).get("classes") or ())
        known = self._known_classes
        if names and known and names != known:
            odd = sorted(set(names) ^ set(known)) or ["the order of the classes"]
            raise UserError(
                f"{phase} has other classes ({len(names)}) than train ({len(known)}): {odd[0]} differs, so labels "
                f"would mean different things; give both the same class folders"
            )
        self._known_classes = names or known
        return len(self._known_classes) or int(labels.max()) + 1

    def _cache(self, images: Any, names: list[str], labels: np.ndarray, loader: Any) -> FeatureCache:
        settings = self.cfg.features
        about = {
            "encoder": self._encoder,
            "transform": _plain(_pipeline(loader.dataset)),
            "images_digest": digest_of_images(images, names, labels),
            "precision": settings.precision,
            "seed": settings.seed,
        }
        return FeatureCache(self.root, about, len(names), self.model.width, settings.storage)

    def _loading(self, loader: Any) -> Loading:
        settings = self.cfg.features
        return Loading(loader.batch_size, loader.num_workers, settings.precision, settings.seed)

    def _note(self, choice: Choice, names: list[str], subset: Any) -> None:
        """Keep which images were chosen: in the record, and as a list that can be given again."""
        self.subset = {**subset, "images": len(choice.rows), "origin": choice.origin, "list": SUBSET_FILE}
        print_log(f"labels: {len(choice.rows):,} of {len(names):,} images; {choice.origin}", logger="current")
        if get_dist_info()[0] == 0:
            text = "".join(f"{names[row]}\n" for row in choice.rows)
            (Path(self.cfg.work_dir) / SUBSET_FILE).write_text(text)


def _pipeline(dataset: Any) -> Any:
    while "pipeline" not in dataset and "dataset" in dataset:
        dataset = dataset["dataset"]
    return dataset.get("pipeline")


def _plain(node: Any) -> Any:
    """A config as JSON; where the encoder's file lies plays no part."""
    text = json.dumps(node, sort_keys=True, default=lambda o: getattr(o, "__qualname__", str(o)))
    plain = json.loads(text)
    if isinstance(plain, dict):
        plain.get("backbone", {}).pop("backbone_file", None)
    return plain
