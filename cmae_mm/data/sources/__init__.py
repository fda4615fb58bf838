"""Where the images of pretraining come from: folders, tars, WebDataset shards."""

from __future__ import annotations

import re
from pathlib import Path

from cmae_mm.data.sources.base import Source
from cmae_mm.data.sources.folder import FolderSource
from cmae_mm.data.sources.tar import TarSource, index_class_tars, index_whole_tar, sorted_tars
from cmae_mm.data.sources.tar_index import load_or_build
from cmae_mm.data.sources.webdataset import are_shards, index_shards, shard_paths
from cmae_mm.errors import UserError

__all__ = ["Source", "open_source"]


def open_source(root: str | Path, split: str = "train", index_dir: str | Path | None = None) -> Source:
    """Find the images of a split; the layout is seen from what is there (docs/data.md).

    Args:
        root: Data root, one tar, or a pattern of WebDataset shards with braces.
        split: Folder, tar or part of the shards' names under the root; "" for the root itself.
        index_dir: Where indices of tars are kept; default beside the tars, else in the user's cache.

    Raises:
        UserError: There are no images, or a tar cannot be read.
    """
    keep = Path(index_dir) if index_dir is not None else None
    source = _find(Path(root), split, keep)
    if len(source) == 0:
        raise UserError(f"{source.where} ({source.kind}) has no images; check the data root")
    return source


def _find(root: Path, split: str, keep: Path | None) -> Source:
    if "{" in str(root):
        return _of_split(_shards(shard_paths(str(root)), str(root), keep), split)
    if root.is_file():
        return _of_split(_whole(root, split, keep), split)
    folder = root / split
    if folder.is_dir():
        tars = sorted_tars(folder.iterdir())
        return _tars(tars, str(folder), keep) if tars else FolderSource(folder)
    for tar in (root / f"{split}.tar", root / f"ILSVRC2012_img_{split}.tar"):
        if tar.is_file():
            return _whole(tar, split, keep)
    tars = sorted_tars(root.glob(f"*{split}*.tar")) if root.is_dir() else []
    if tars:
        return _shards(tars, str(root), keep)
    raise UserError(
        f"there are no images in {root}: neither a folder {split}/ (of class folders, class tars or shards) nor "
        f"{split}.tar, ILSVRC2012_img_{split}.tar or shards *{split}*.tar; check the data root"
    )


def _of_split(source: Source, split: str) -> Source:
    """Refuse training images for another split: a probe would be tested on what it knows."""
    shown = "" if len(source) == 0 else source.name(0).removeprefix(source.where)
    if (
        split in ("", "train")
        or split in Path(source.where).name
        or f"{split}/" in re.split("(?<=[:/])", shown)
    ):
        return source
    raise UserError(
        f"{source.where} is not said to hold the split {split!r}; give a folder with the tars of all splits"
    )


def _tars(tars: list[Path], where: str, keep: Path | None) -> Source:
    if are_shards(tars):
        return _shards(tars, where, keep)
    if len(tars) == 1:
        return _whole(tars[0], tars[0].parent.name, keep)
    index = load_or_build(tars, "class tars", keep, lambda: index_class_tars(tars))
    return TarSource(tars, index, "folder of class tars", where)


def _whole(tar: Path, split: str, keep: Path | None) -> Source:
    if not are_shards([tar]):
        index = load_or_build([tar], f"tar of {split}", keep, lambda: index_whole_tar(tar, split))
        return TarSource([tar], index, "one tar", str(tar))
    return _shards([tar], str(tar), keep)


def _shards(shards: list[Path], where: str, keep: Path | None) -> Source:
    index = load_or_build(shards, "shards", keep, lambda: index_shards(shards))
    return TarSource(shards, index, "WebDataset shards", where)
