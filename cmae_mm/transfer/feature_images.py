"""Images of a data set for an encoder: in a fixed order, each with random draws of its own."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from cmae_mm.data.masters import draw_key
from cmae_mm.errors import UserError

_LOOKED_INTO = 64  # files whose content tells whether a data set is the same


class KeyedImages(Dataset):
    """Images after their transform. The draws of image ``i`` depend on seed, view and ``i`` alone.

    So they are the same whatever was read before, by whichever process. A sample is (row, image or sentence): a
    sentence tells why the image cannot be read.

    Args:
        dataset: A data set of mmpretrain.
        view: Number of the view.
        seed: Of the draws.
    """

    def __init__(self, dataset: Any, view: int = 0, seed: int = 0) -> None:
        self.dataset, self.view, self.seed = dataset, view, seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, row: int) -> tuple[int, Tensor | str]:
        with own_draws(draw_key(self.seed, self.view, row)):
            try:
                return row, self.dataset[row]["inputs"]
            except UserError as error:
                return row, str(error)
            except Exception as error:  # decoders and transforms raise what they like on broken files
                place = self.dataset.get_data_info(row).get("img_path", f"image {row}")
                return (
                    row,
                    f"cannot read the image {place} ({type(error).__name__}: {error}); repair or remove it",
                )


@contextmanager
def own_draws(key: int) -> Iterator[None]:
    """Let the generators of Python, NumPy and torch start from a key; afterwards they are as they were.

    Args:
        key: Whole number of up to 63 bits.
    """
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(key)
    np.random.seed(key & 0xFFFFFFFF)
    torch.manual_seed(key)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)


def stack(samples: Sequence[tuple[int, Tensor | str]]) -> tuple[list[int], Tensor | str]:
    """Make a batch; of images that cannot be read the first sentence.

    Args:
        samples: Of :class:`KeyedImages`.

    Returns:
        Rows, and images (N, 3, H, W) or a sentence.
    """
    broken = [found for _, found in samples if isinstance(found, str)]
    if broken:
        return [], broken[0]
    return [row for row, _ in samples], torch.stack([found for _, found in samples])  # type: ignore[misc]


def names_and_labels(dataset: Any) -> tuple[list[str], np.ndarray]:
    """List what is in a data set.

    Args:
        dataset: A data set of mmpretrain.

    Returns:
        Paths as seen from the folder of the images, and (N,) int64 labels.

    Raises:
        UserError: An image has no label.
    """
    prefix = str(getattr(dataset, "img_prefix", "") or "")
    names, labels = [], np.empty(len(dataset), np.int64)
    for i in range(len(dataset)):
        info = dataset.get_data_info(i)
        path = str(info.get("img_path", i))
        if "gt_label" not in info:
            raise UserError(f"{path}: has no label; frozen encoders are evaluated on labelled images")
        names.append(path.removeprefix(prefix).lstrip("/") if prefix else path)
        labels[i] = info["gt_label"]
    return names, labels


def digest_of_images(dataset: Any, names: Sequence[str], labels: np.ndarray) -> str:
    """Tell data sets apart: by all names and labels, and by the content of some files, evenly spread.

    Args:
        dataset: A data set of mmpretrain.
        names: See :func:`names_and_labels`.
        labels: Likewise.

    Returns:
        BLAKE2b, 32 hexadecimal digits.
    """
    digest = hashlib.blake2b(digest_size=16)
    digest.update("\n".join(names).encode("utf-8", "surrogateescape"))
    digest.update(np.ascontiguousarray(labels, np.int64).data)
    for i in np.unique(np.linspace(0, len(names) - 1, min(len(names), _LOOKED_INTO)).astype(int)).tolist():
        path = str(dataset.get_data_info(i).get("img_path", ""))
        if os.path.isfile(path):
            with open(path, "rb") as file:
                digest.update(hashlib.blake2b(file.read()).digest())
    return digest.hexdigest()
