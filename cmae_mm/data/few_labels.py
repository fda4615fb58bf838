"""A few labelled images of each class: drawn with a seed, or read from a list such as SimCLR's."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from mmpretrain.registry import DATASETS
from torch.utils.data import Dataset

from cmae_mm.errors import UserError

# google-research/simclr, imagenet_subsets: lines and MD5 (with LF line ends).
SIMCLR_LISTS = {
    "1percent.txt": (12_811, "b61c91b8ddb75fabdb02a9bb2ae3bd74"),
    "10percent.txt": (128_116, "b0d861160cc9531910d069ff547fc1b6"),
}
_PERCENT = re.compile(r"(\d+(?:\.\d+)?)%")
_PER_CLASS = re.compile(r"([1-9]\d*)-per-class")


@dataclass(frozen=True)
class Choice:
    """Which images have their labels.

    Args:
        rows: Their rows in the data set, ascending.
        origin: Where they come from, in words.
    """

    rows: np.ndarray
    origin: str


def choose(
    names: Sequence[str], labels: np.ndarray, take: str, seed: int = 0, lists: str | Path | None = None
) -> Choice:
    """Choose labelled images.

    A draw takes of each class the first images of a random order, so with one seed a smaller draw is a part of a
    larger one. It depends on names and labels, not on the order of the data set.

    Args:
        names: Paths of the images.
        labels: (N,) int64.
        take: ``"1%"`` of each class, at least one image; ``"5-per-class"``; or a file with one name a line.
        seed: Of the draw.
        lists: Folder with SimCLR's ``1percent.txt`` and ``10percent.txt``: with it ``"1%"`` and ``"10%"`` are read
            from them.

    Raises:
        UserError: ``take`` is of another form, a list does not fit the data set, or a class has too few images.
    """
    percent, count = _PERCENT.fullmatch(take), _PER_CLASS.fullmatch(take)
    if lists is not None and take in ("1%", "10%"):
        return _from_list(names, Path(lists) / f"{take[:-1]}percent.txt")
    if percent and 0 < float(percent[1]) <= 100:
        share = float(percent[1]) / 100
        return Choice(
            _draw(names, labels, seed, share=share), f"{take} of each class, drawn with seed {seed}"
        )
    if count:
        rows = _draw(names, labels, seed, count=int(count[1]))
        return Choice(rows, f"{count[1]} images of each class, drawn with seed {seed}")
    if not Path(take).is_file():
        raise UserError(
            f"subset {take!r}: is no share such as 1%, no number such as 5-per-class, and no file with a list of images"
        )
    return _from_list(names, Path(take))


def _draw(
    names: Sequence[str], labels: np.ndarray, seed: int, share: float = 0.0, count: int = 0
) -> np.ndarray:
    order = np.array(sorted(range(len(names)), key=names.__getitem__))
    chosen = []
    for label in np.unique(labels):
        members = order[labels[order] == label]
        wanted = count or max(1, round(share * len(members)))
        if wanted > len(members):
            raise UserError(
                f"subset {count}-per-class: class {label} has only {len(members)} images ({names[members[0]]} ...); "
                f"take fewer"
            )
        chosen.append(np.random.default_rng((seed, int(label))).permutation(members)[:wanted])
    return np.sort(np.concatenate(chosen))


def _from_list(names: Sequence[str], path: Path) -> Choice:
    try:
        text = path.read_bytes().replace(b"\r\n", b"\n")
        lines = [line.strip() for line in text.decode().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: the list of images cannot be read ({error})") from None
    origin = f"list {path.name}, {_check_simclr(path, text, len(lines))}"
    bare = {PurePosixPath(name).name: row for row, name in enumerate(names)}
    full = {name: row for row, name in enumerate(names)}
    found = [full.get(line, bare.get(line)) for line in lines]
    missing = [line for line, row in zip(lines, found, strict=True) if row is None]
    if missing or not lines:
        raise UserError(
            f"{path}: {len(missing)} of its {len(lines)} images are not in the data set"
            f"{f', for example {missing[0]}' if missing else ''}; is it a list for this data set?"
        )
    rows = np.unique(np.array(found, np.int64))
    if len(rows) < len(lines):
        raise UserError(f"{path}: names {len(lines) - len(rows)} images twice; remove the repetitions")
    return Choice(rows, origin)


def _check_simclr(path: Path, text: bytes, lines: int) -> str:
    """What a list is, in words; a file with the name of SimCLR's must be SimCLR's."""
    md5 = hashlib.md5(text, usedforsecurity=False).hexdigest()
    if path.name not in SIMCLR_LISTS:
        return f"MD5 {md5}"
    right_lines, right = SIMCLR_LISTS[path.name]
    if md5 != right:
        raise UserError(
            f"{path}: is not SimCLR's list of that name: {lines:,} lines with MD5 {md5} in place of {right_lines:,} "
            f"with {right}; get it from google-research/simclr (imagenet_subsets), or give your own list another name"
        )
    return f"SimCLR's, MD5 {md5}"


@DATASETS.register_module()
class FewLabels(Dataset):
    """A data set of mmpretrain of which only some images are used, see :func:`choose`.

    Args:
        dataset: Config of the whole data set.
        take: Which images.
        seed: Of a draw.
        lists: Folder of SimCLR's lists.
    """

    def __init__(
        self, dataset: dict[str, Any], take: str, seed: int = 0, lists: str | Path | None = None
    ) -> None:
        self.dataset = DATASETS.build(dataset) if isinstance(dataset, dict) else dataset
        self.take, self.seed = take, seed
        infos = [self.dataset.get_data_info(i) for i in range(len(self.dataset))]
        prefix = str(getattr(self.dataset, "img_prefix", "") or "")
        self._names = [str(info["img_path"]).removeprefix(prefix).lstrip("/") for info in infos]
        labels = np.array([info["gt_label"] for info in infos], np.int64)
        self.choice = choose(self._names, labels, take, seed, lists)

    @property
    def metainfo(self) -> dict[str, Any]:
        """Of the whole data set."""
        return self.dataset.metainfo

    @property
    def names(self) -> list[str]:
        """Paths of the chosen images, as a list that `choose` reads."""
        return [self._names[row] for row in self.choice.rows]

    def write_list(self, path: str | Path) -> dict[str, Any]:
        """Keep which images were chosen.

        Args:
            path: Takes one name a line.

        Returns:
            What a record says about the choice.
        """
        Path(path).write_text("".join(f"{name}\n" for name in self.names))
        about = {"take": self.take, "seed": self.seed, "images": len(self), "origin": self.choice.origin}
        return {**about, "list": Path(path).name}

    def full_init(self) -> None:
        """See mmengine; the data set was read when it was built."""

    def get_data_info(self, idx: int) -> dict[str, Any]:
        """See mmengine."""
        return self.dataset.get_data_info(int(self.choice.rows[idx]))

    def get_cat_ids(self, idx: int) -> list[int]:
        """See mmpretrain."""
        return self.dataset.get_cat_ids(int(self.choice.rows[idx]))

    def __len__(self) -> int:
        return len(self.choice.rows)

    def __getitem__(self, idx: int) -> Any:
        return self.dataset[int(self.choice.rows[idx])]
