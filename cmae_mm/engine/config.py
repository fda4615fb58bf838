"""Load a recipe and point it at data, a backbone file and a work dir."""

from __future__ import annotations

import contextlib
import difflib
import io
import os
from pathlib import Path
from types import BuiltinFunctionType, FunctionType
from typing import Any

from mmengine.config import Config
from mmengine.config.lazy import LazyAttr, LazyObject
from mmengine.utils import get_object_from_string

import cmae_mm.compat  # noqa: F401  (before torchvision, which the classes in configs import)
from cmae_mm.checkpoints.mmengine_loader import make_mmengine_load_safely
from cmae_mm.engine.options import apply_options
from cmae_mm.errors import UserError

_WORK_DIR_IGNORE = "# Outputs of runs are never committed.\n*\n"


def load_config(path: str | Path, options: dict[str, Any] | None = None) -> Config:
    """Read a config file and apply ``--cfg-options``.

    A config is a program. From here on, what it lets the libraries read is read safely.

    Args:
        path: A pure Python config.
        options: Dotted keys to values.

    Returns:
        The config.

    Raises:
        UserError: If the file is missing or broken, or an option names no field.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such config file{_suggestion(path)}")
    if path.suffix != ".py":  # the libraries execute what other formats name, which looks like data
        raise UserError(f"{path}: a config is a Python file (.py); recipes are under configs/")
    make_mmengine_load_safely()
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # the forks print a notice on import
            cfg = Config.fromfile(str(path))
            _resolve(cfg)
    except Exception as error:
        reason = str(error).strip().splitlines()
        raise UserError(
            f"{path}: the config cannot be read ({type(error).__name__}: {reason[0] if reason else 'no reason given'})"
        ) from error
    apply_options(cfg, options or {})
    return cfg


def _resolve(cfg: Config) -> None:
    """Import the classes that the config names now, so that a wrong name is found before the run.

    Paths of classes, as in the configs that runs write down, become the classes.
    """

    def walk(node: Any) -> None:
        if isinstance(node, dict):
            for key in node:
                kind = node[key] if key == "type" else None
                if isinstance(kind, str) and "." in kind and (found := get_object_from_string(kind)):
                    node[key] = found
                walk(node[key])
        elif isinstance(node, (list, tuple)):
            for item in node:
                walk(item)
        elif isinstance(node, (LazyObject, LazyAttr)):
            node.build()

    walk(cfg._cfg_dict)


def set_data_root(cfg: Config, root: str | Path) -> None:
    """Replace the config's ``data_root`` by another folder wherever a path starts with it.

    Args:
        cfg: Config with a top-level ``data_root``; changed in place.
        root: The new folder.

    Raises:
        UserError: If the config has no ``data_root``.
    """
    old = cfg.get("data_root")
    if not old:
        raise UserError(
            "--data-root: this config has no top-level data_root; set its dataset paths with --cfg-options"
        )
    stem, new = str(old).rstrip("/"), os.path.join(str(root), "")

    def walk(node: Any) -> Any:
        """The node with paths replaced; dicts and lists are changed in place."""
        if isinstance(node, str):
            inside = node.rstrip("/") == stem or node.startswith(stem + "/")
            return new + node[len(stem) :].lstrip("/") if inside else node
        if isinstance(node, tuple):
            items = tuple(map(walk, node))
            return node if all(a is b for a, b in zip(items, node, strict=True)) else items
        if isinstance(node, (dict, list)):
            for key, value in list(node.items() if isinstance(node, dict) else enumerate(node)):
                if (changed := walk(value)) is not value:
                    node[key] = changed
        return node

    walk(cfg._cfg_dict)


def name_classes(cfg: Config) -> None:
    """Replace classes and functions by their paths, so that the config that a run writes down can be read again.

    Args:
        cfg: Changed in place. What the config file itself imported stays as it is; mmengine writes its path.
    """

    def walk(node: Any) -> Any:
        if isinstance(node, (type, FunctionType, BuiltinFunctionType)):
            return f"{node.__module__}.{node.__qualname__}"
        if isinstance(node, dict):
            for key, value in dict.items(node):  # as it is, not built
                if (changed := walk(value)) is not value:
                    node[key] = changed
        elif isinstance(node, (list, tuple)):
            changed = [walk(value) for value in node]
            if any(new is not old for new, old in zip(changed, node, strict=True)):
                return type(node)(changed)
        return node

    walk(cfg._cfg_dict)


def set_backbone(cfg: Config, reference: str | Path) -> None:
    """Let the model start from a backbone file, or from a checkpoint that is imported into the work dir first.

    Args:
        cfg: Config of a transfer task; changed in place.
        reference: Path, address or file of the hub, see `checkpoints.fetch`.

    Raises:
        UserError: If there is no such file, something has to be said to import it, or the config's backbone cannot
            read one.
    """
    from cmae_mm.checkpoints import load_backbone
    from cmae_mm.checkpoints.acquire import backbone_from

    backbone = cfg.get("model", {}).get("backbone", {})
    if "backbone_file" not in backbone:
        raise UserError(
            f"--backbone {reference}: the backbone of {cfg.filename} reads no backbone file; use a transfer config"
        )
    file, report = backbone_from(str(reference), cfg.get("work_dir") or ".")
    if report:
        print(f"{report}\nimported: {file}")
    header = load_backbone(file)[1]  # a wrong file is found before anything is built
    backbone["backbone_file"] = str(file)
    parts_of = getattr(backbone.get("type"), "parts_of", None)
    parts = {k: v for k, v in (parts_of(header) if parts_of else {}).items() if k not in backbone}
    if parts:
        backbone.update(parts)
        words = " ".join(f"model.backbone.{k}={v}" for k, v in parts.items())
        print(f"{file}: the encoder has parts that a plain ViT lacks; the model gets them ({words})")


def use_few_labels(cfg: Config, take: str) -> None:
    """Train a classifier on a part of its images, see `cmae_mm.data.few_labels.FewLabels`.

    Args:
        cfg: Config of a classification task; changed in place.
        take: ``1%``, ``5-per-class``, or a file of names. A draw takes the config's seed.

    Raises:
        UserError: The config trains no classifier of images.
    """
    from mmengine.registry import DATASETS
    from mmpretrain.datasets import BaseDataset

    from cmae_mm.data.few_labels import FewLabels

    dataset = (cfg.get("train_dataloader") or {}).get("dataset") or {}
    kind = dataset.get("type")
    kind = DATASETS.get(kind) if isinstance(kind, str) else kind
    if not (isinstance(kind, type) and issubclass(kind, BaseDataset)):
        raise UserError(
            f"--labels {take}: {cfg.filename} does not train on labelled images; use a config of configs/imagenet/"
        )
    seed = (cfg.get("randomness") or {}).get("seed") or 0
    cfg.train_dataloader.pop("dataset")  # else the new fields would be merged into the old ones
    cfg.train_dataloader["dataset"] = dict(type=FewLabels, dataset=dataset, take=take, seed=seed)


def use_tta(cfg: Config) -> None:
    """Test with test-time augmentation, which the config describes.

    Args:
        cfg: Config with ``tta_model`` and ``tta_pipeline``, as mmengine has them; changed in place.

    Raises:
        UserError: If it has none.
    """
    if not (cfg.get("tta_model") and cfg.get("tta_pipeline")):
        raise UserError(
            f"--tta: {cfg.filename} has no tta_model and tta_pipeline; leave out --tta, or use a config that has them"
        )
    cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline
    cfg.model = {**cfg.tta_model, "module": cfg.model}


def prepare_work_dir(path: str | Path) -> Path:
    """Make a work dir whose content git ignores.

    Args:
        path: Folder; may exist.

    Returns:
        The folder.

    Raises:
        UserError: If it cannot be written.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        template = Path(__file__).parents[2] / "work_dirs.gitignore"
        ignore = folder / ".gitignore"
        if not ignore.exists():
            ignore.write_text(template.read_text() if template.is_file() else _WORK_DIR_IGNORE)
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be used as work dir ({error.strerror}); choose another --work-dir"
        ) from None
    return folder


def _suggestion(path: Path) -> str:
    root = Path(__file__).parents[2] / "configs"
    known = {p.name: p for p in root.rglob("*.py") if "_base_" not in p.parts}
    close = difflib.get_close_matches(path.name, known, n=1, cutoff=0.5)
    return (
        f"; did you mean {known[close[0]].relative_to(root.parent)}?"
        if close
        else "; recipes are under configs/"
    )
