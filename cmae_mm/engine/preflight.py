"""Look at the data of a config before anything is built from it."""

from __future__ import annotations

import inspect
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config

from cmae_mm.data.ade20k_checks import check_ade20k
from cmae_mm.data.checks import check_image_folder
from cmae_mm.data.class_names import read_class_names
from cmae_mm.data.coco_checks import check_coco, describe
from cmae_mm.data.image_files import check_images
from cmae_mm.data.imagenet_layout import read_meta
from cmae_mm.data.masters import MasterImages, check_masters
from cmae_mm.errors import UserError


def check_datasets(cfg: Config, phases: tuple[str, ...]) -> list[str]:
    """Check every dataset that a run will read, those of its hooks included.

    Of several processes on a machine only the first one looks: an annotation file may take gigabytes to read.

    Args:
        cfg: Config with ``{phase}_dataloader`` fields.
        phases: Of ``train``, ``val``, ``test``.

    Returns:
        Lines for the log: what was found.

    Raises:
        UserError: If a folder, image, annotation file or label map is missing or wrong.
    """
    if any(int(os.environ.get(name) or 0) for name in ("LOCAL_RANK", "SLURM_LOCALID")):
        return []
    notes: list[str] = []
    seen: set[tuple[str, ...]] = set()
    named = [(cfg.get(f"{phase}_dataloader") or {}).get("dataset") for phase in phases]
    if "train" in phases:
        named += _datasets_of_hooks(cfg)
    for dataset in named:
        if dataset and (key := _identity(dataset)) not in seen:
            seen.add(key)
            notes += _check(dataset, cfg)
    return notes


def _datasets_of_hooks(cfg: Config) -> list[dict[str, Any]]:
    """Data sets that hooks read while the model trains or before a test."""
    hooks = [*(cfg.get("default_hooks") or {}).values(), *(cfg.get("custom_hooks") or [])]
    fields = [value for hook in hooks if hook for value in hook.values() if isinstance(value, dict)]
    inner = [
        value["dataset"] for value in fields if isinstance(value.get("dataset"), dict)
    ]  # of a dataloader
    return [value for value in fields if value.get("type") is MasterImages] + inner


def _identity(dataset: dict[str, Any]) -> tuple[str, ...]:
    return tuple(str(dataset.get(k)) for k in ("type", "data_root", "ann_file", "data_prefix", "split"))


def _check(dataset: dict[str, Any], cfg: Config) -> list[str]:
    """Check one dataset; returns lines for the log."""
    inner = dataset.get("dataset")
    if isinstance(inner, dict):  # a wrapper such as RepeatDataset
        return _check(inner, cfg)
    names = {base.__module__.split(".")[0] + "." + base.__name__ for base in _bases(dataset)}
    root = Path(dataset.get("data_root") or "")
    prefix = dataset.get("data_prefix") or {}
    if "mmdet.CocoDataset" in names:
        return [_check_detection(dataset, root, cfg)]
    if "mmseg.BaseSegDataset" in names:
        return _check_segmentation(dataset, root, cfg)
    if "cmae_mm.MasterImages" in names:
        check_masters({key: value for key, value in dataset.items() if key != "type"})
    elif "mmpretrain.CustomDataset" in names and not dataset.get("ann_file"):
        folder = prefix if isinstance(prefix, str) else prefix.get("img_path", "")
        split = dataset.get("split", "")
        if "mmpretrain.ImageNet" in names and (file := root / "meta" / f"{split}.txt").is_file():
            return [_check_listed(file, root / (folder or split))]
        check_image_folder(root, folder or split)
    return []


def _check_listed(file: Path, folder: Path) -> str:
    """Check images whose classes stand in a list: mmpretrain's ImageNet reads it where there is one."""
    images = [folder / name for name in read_meta(file)]
    check_images(images)
    return f"{file}: {len(images):,} images"


def _check_detection(dataset: dict[str, Any], root: Path, cfg: Config) -> str:
    ann_file, classes = root / dataset["ann_file"], _classes(dataset)
    images = (dataset.get("data_prefix") or {}).get("img", "")
    counts = check_coco(ann_file, root / images, classes)
    for part in ("bbox_head", "mask_head"):
        head = cfg.get("model", {}).get("roi_head", {}).get(part) or {}
        for one in head if isinstance(head, (list, tuple)) else [head]:  # a cascade has several
            if one.get("num_classes", len(classes)) != len(classes):
                raise UserError(
                    f"model.roi_head.{part} has num_classes={one['num_classes']}, but the data set has {len(classes)} "
                    f"classes ({', '.join(classes[:3])} ...); set num_classes={len(classes)}"
                )
    return f"{ann_file}: {describe(counts)}"


def _check_segmentation(dataset: dict[str, Any], root: Path, cfg: Config) -> list[str]:
    """Check classes and folders in ADE20K layout; other layouts of mmseg are left alone."""
    layout = {name: _option(dataset, name) for name in ("img_suffix", "seg_map_suffix", "reduce_zero_label")}
    if dataset.get("ann_file") or layout["seg_map_suffix"] != ".png" or not layout["reduce_zero_label"]:
        return []
    classes = _classes(dataset)
    for part in ("decode_head", "auxiliary_head"):
        heads = cfg.get("model", {}).get(part) or []
        for head in heads if isinstance(heads, (list, tuple)) else [heads]:
            if head.get("num_classes", len(classes)) != len(classes):
                raise UserError(
                    f"model.{part} has num_classes={head['num_classes']}, but {root} has {len(classes)} classes "
                    f"({', '.join(classes[:3])} ...); add --cfg-options model.{part}.num_classes={len(classes)}"
                )
    prefix = dataset["data_prefix"]
    folder = root / prefix["img_path"]
    found = check_ade20k(folder, root / prefix["seg_map_path"], len(classes), layout["img_suffix"])
    return [f"{folder}: {found}"]


def _option(dataset: dict[str, Any], name: str) -> Any:
    """What the config says, or else what the dataset's class takes; None if neither knows it."""
    if name in dataset:
        return dataset[name]
    for base in _bases(dataset):
        known = inspect.signature(vars(base)["__init__"]).parameters if "__init__" in vars(base) else {}
        if name in known:
            return known[name].default
    return None


def _classes(dataset: dict[str, Any]) -> Sequence[str]:
    """Names in the config, or those of the folder, or those of the dataset's class."""
    bases = _bases(dataset)
    if any(base.__name__ == "SegmentationFolder" for base in bases):
        return read_class_names(dataset["data_root"])
    named: Sequence[str] = (dataset.get("metainfo") or {}).get("classes") or bases[0].METAINFO["classes"]
    return named


def _bases(dataset: dict[str, Any]) -> tuple[Any, ...]:
    kind = dataset["type"]
    if isinstance(kind, str):
        from mmengine.registry import DATASETS

        kind = DATASETS.get(kind)
    return getattr(kind, "__mro__", ())
