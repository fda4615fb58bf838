"""Look at the data of a config before anything is built from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmengine.config import Config

from cmae_mm.data.checks import check_ade20k, check_coco, check_image_folder
from cmae_mm.data.masters import MasterImages, check_masters


def check_datasets(cfg: Config, phases: tuple[str, ...]) -> None:
    """Check every dataset that a run will read, those of its hooks included.

    Args:
        cfg: Config with ``{phase}_dataloader`` fields.
        phases: Of ``train``, ``val``, ``test``.

    Raises:
        UserError: If a folder, image, annotation file or label map is missing or wrong.
    """
    seen: set[tuple[str, ...]] = set()
    named = [(cfg.get(f"{phase}_dataloader") or {}).get("dataset") for phase in phases]
    if "train" in phases:
        named += _datasets_of_hooks(cfg)
    for dataset in named:
        if dataset and (key := _identity(dataset)) not in seen:
            seen.add(key)
            _check(dataset)


def _datasets_of_hooks(cfg: Config) -> list[dict[str, Any]]:
    """Data sets that hooks read while the model trains."""
    hooks = [*(cfg.get("default_hooks") or {}).values(), *(cfg.get("custom_hooks") or [])]
    fields = [value for hook in hooks if hook for value in hook.values()]
    return [value for value in fields if isinstance(value, dict) and value.get("type") is MasterImages]


def _identity(dataset: dict[str, Any]) -> tuple[str, ...]:
    return tuple(str(dataset.get(k)) for k in ("type", "data_root", "ann_file", "data_prefix", "split"))


def _check(dataset: dict[str, Any]) -> None:
    inner = dataset.get("dataset")
    if isinstance(inner, dict):  # a wrapper such as RepeatDataset
        _check(inner)
        return
    names = {base.__module__.split(".")[0] + "." + base.__name__ for base in _bases(dataset)}
    root = Path(dataset.get("data_root") or "")
    prefix = dataset.get("data_prefix") or {}
    if "mmdet.CocoDataset" in names:
        check_coco(root / dataset["ann_file"], root / prefix.get("img", ""))
    elif "mmseg.BaseSegDataset" in names:
        classes = (dataset.get("metainfo") or {}).get("classes") or _bases(dataset)[0].METAINFO["classes"]
        check_ade20k(root / prefix["img_path"], root / prefix["seg_map_path"], len(classes))
    elif "cmae_mm.MasterImages" in names:
        check_masters({key: value for key, value in dataset.items() if key != "type"})
    elif "mmpretrain.CustomDataset" in names and not dataset.get("ann_file"):
        folder = prefix if isinstance(prefix, str) else prefix.get("img_path", "")
        check_image_folder(root, folder or dataset.get("split", ""))


def _bases(dataset: dict[str, Any]) -> tuple[Any, ...]:
    kind = dataset["type"]
    if isinstance(kind, str):
        from mmengine.registry import DATASETS

        kind = DATASETS.get(kind)
    return getattr(kind, "__mro__", ())
