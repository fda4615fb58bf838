"""Where ImageNet's images and labels lie: every layout in which people keep it."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cmae_mm.data.image_files import listing
from cmae_mm.data.sources import Source, open_source
from cmae_mm.data.sources.folder import FolderSource
from cmae_mm.data.sources.listed import ListedSource
from cmae_mm.data.sources.parquet import ParquetSource
from cmae_mm.errors import UserError

WNID = re.compile(r"n\d{8}")
_KAGGLE = ("", "Data/CLS-LOC", "ILSVRC/Data/CLS-LOC")
_DEVKIT = "ILSVRC2012_devkit_t12/data"
_NAMES = {"train": ("train",), "val": ("val", "validation")}


@cache
def wnids() -> tuple[str, ...]:
    """The 1000 synsets of ImageNet-1k in the order of the labels: sorted. From timm's list, without importing timm."""
    package = find_spec("timm")
    if package is None or package.origin is None:
        raise UserError(
            "the package timm is missing, which has the list of ImageNet's classes; pip install timm"
        )
    return tuple((Path(package.origin).parent / "data/_info/imagenet_synsets.txt").read_text().split())


def find_split(root: Path, split: str) -> Source | None:
    """Find the images of a split.

    Args:
        root: Folder, or one tar.
        split: ``train`` or ``val``.

    Returns:
        The images with what is known of their classes; None if there are none.

    Raises:
        UserError: What is there cannot be read.
    """
    if root.is_dir():
        for below in _KAGGLE:
            folder = root / below / split
            if folder.is_dir() and (flat := _flat(folder)):
                return _labelled(root, folder, flat, split)
            if folder.is_dir() and below:
                return open_source(root / below, split)
        parquet = [
            f
            for name in _NAMES[split]
            for f in sorted([*root.glob(f"{name}-*.parquet"), *root.glob(f"data/{name}-*.parquet")])
        ]
        if parquet:
            return ParquetSource(parquet, wnids())
    if listed := _listed(root, root / split, split):
        return listed
    try:
        return open_source(root, split)
    except UserError as error:
        if "there are no images in" in str(error) or "is not said to hold" in str(error):
            return None
        raise


def find_classes(root: Path) -> Source | None:
    """The images of a folder that itself holds folders of classes, such as ``imagenet/val``; None if there are none."""
    if not root.is_dir():
        return None
    source = FolderSource(root)
    return source if len(source) and source.classes else None


def _flat(folder: Path) -> list[Path]:
    """Images that lie in the folder itself; none if it has class folders or tars."""
    if any(p.is_dir() and not p.name.startswith(".") for p in folder.iterdir()):
        return []
    return listing(folder)


def _listed(root: Path, folder: Path, split: str) -> Source | None:
    """Images of ``meta/{split}.txt``, which mmpretrain reads where it is, whatever the folders say."""
    file = root / "meta" / f"{split}.txt"
    if not file.is_file():
        return None
    labels = read_meta(file)
    paths = [folder / name for name in labels]
    return ListedSource(paths, list(labels.values()), wnids(), "files of a list, meta/", str(file))


def _labelled(root: Path, folder: Path, files: list[Path], split: str) -> Source:
    """A flat folder with the labels of the first list that is there."""
    for kind, labels in (label_lists(folder.parent, split) | label_lists(root, split)).items():
        found = [labels.get(path.name, labels.get(path.stem, -1)) for path in files]
        return ListedSource(files, found, wnids(), f"one folder, labels of {kind}", str(folder))
    return ListedSource(files, [-1] * len(files), (), "one folder without labels", str(folder))


def label_lists(root: Path, split: str) -> dict[str, dict[str, int]]:
    """Labels of a split by file name (or stem), from each list that is there.

    Args:
        root: Data root.
        split: ``train`` or ``val``.

    Returns:
        Name of the list to file name to label. Lists that cannot be read are refused.

    Raises:
        UserError: A list is damaged.
    """
    readers: dict[str, tuple[Path, Callable[[Path], dict[str, int]]]] = {
        "OpenMMLab's meta/": (root / "meta" / f"{split}.txt", read_meta)
    }
    if split == "val":
        kaggle = next((p for p in (root, root.parent) if (p / "LOC_val_solution.csv").is_file()), root)
        readers["Kaggle's LOC_val_solution.csv"] = (kaggle / "LOC_val_solution.csv", _read_kaggle)
        devkit = next((p for p in (root, root.parent) if (p / _DEVKIT).is_dir()), root)
        readers["the devkit"] = (
            devkit / _DEVKIT / "ILSVRC2012_validation_ground_truth.txt",
            _read_devkit,
        )
    found = {}
    for kind, (file, read) in readers.items():
        if not file.is_file():
            continue
        try:
            found[kind] = {Path(name).name: label for name, label in read(file).items()}
        except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
            raise UserError(
                f"{file}: cannot be read ({type(error).__name__}: {error}); copy it again"
            ) from None
    return found


def read_meta(file: Path) -> dict[str, int]:
    """Lines ``path label`` of caffe's lists.

    Raises:
        UserError: A line is another one.
    """
    labels = {}
    for number, line in enumerate(file.read_text().splitlines(), 1):
        name, _, label = line.strip().rpartition(" ")
        if line.strip() and not (name and label.isdecimal()):
            raise UserError(f"{file}: line {number} is not of the form 'path label'; copy the list again")
        if name:
            labels[name] = int(label)
    return labels


def _read_kaggle(file: Path) -> dict[str, int]:
    place = {wnid: i for i, wnid in enumerate(wnids())}
    with file.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    return {row["ImageId"]: place[row["PredictionString"].split()[0]] for row in rows}


def _read_devkit(file: Path) -> dict[str, int]:
    """Line k has the devkit's own number (1 to 1000) of validation image k: another order than that of the labels."""
    numbers = [int(line) for line in file.read_text().split()]
    place = {wnid: i for i, wnid in enumerate(wnids())}
    synsets = _devkit_synsets(file.parent / "meta.mat")
    return {f"ILSVRC2012_val_{k:08d}": place[synsets[number]] for k, number in enumerate(numbers, 1)}


def _devkit_synsets(file: Path) -> dict[int, str]:
    from scipy.io import loadmat

    rows: Sequence[Any] = loadmat(file, squeeze_me=True)["synsets"]
    known = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in rows}
    return {number: wnid for number, wnid in known.items() if number <= 1000}
