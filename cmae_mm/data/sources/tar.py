"""Images in tar files, read where they lie."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from cmae_mm.data.sources.base import is_image
from cmae_mm.data.sources.names import Names
from cmae_mm.data.sources.tar_index import TarIndex
from cmae_mm.data.sources.tar_scan import Member, TarFiles, scan_tars


class TarSource:
    """Images in tar files.

    Args:
        tars: The files.
        index: What they hold.
        kind: The layout, in words.
        where: What the user named.
    """

    def __init__(self, tars: list[Path], index: TarIndex, kind: str, where: str) -> None:
        self.classes = index.classes
        self.kind = kind
        self.where = where
        self._index = index
        self._files = TarFiles(tuple(str(path.absolute()) for path in tars))

    def __len__(self) -> int:
        return len(self._index.names)

    def read(self, i: int) -> bytes:
        """The bytes of image ``i``; OSError where they cannot be read."""
        index = self._index
        return self._files.read(int(index.tar[i]), int(index.offset[i]), int(index.size[i]))

    def label(self, i: int) -> int:
        """The class of image ``i`` or -1."""
        return int(self._index.label[i])

    def name(self, i: int) -> str:
        """Tar and path inside it, divided by colons."""
        return f"{self._files.paths[int(self._index.tar[i])]}:{self._index.names[i]}"


class Row(NamedTuple):
    """An image on its way into an index.

    Attributes:
        group: What it is sorted by first: its class name, or its number.
        file: What it is sorted by next: its file name.
        shown: What it is called inside its tar.
        tar: Which tar.
        offset: Its first byte.
        size: In bytes.
    """

    group: str | int | None
    file: str
    shown: str
    tar: int
    offset: int
    size: int


def index_of(rows: list[Row], classes: tuple[str, ...] | None = None) -> TarIndex:
    """Sort rows by class and file name.

    Args:
        rows: Images. Groups are all class names, all labels, or all None where classes are not known.
        classes: For groups that are labels; by default the sorted groups.
    """
    if classes is None:
        classes = tuple(sorted({str(row.group) for row in rows if row.group is not None}))
        label = {name: i for i, name in enumerate(classes)}
        labels = [-1 if row.group is None else label[str(row.group)] for row in rows]
    else:
        labels = [-1 if row.group is None else int(row.group) for row in rows]
    order = sorted(range(len(rows)), key=lambda i: (labels[i], rows[i].file, rows[i].tar))
    column = lambda field, kind: np.array([getattr(rows[i], field) for i in order], kind)  # noqa: E731
    return TarIndex(
        classes=classes,
        tar=column("tar", np.int32),
        offset=column("offset", np.int64),
        size=column("size", np.int64),
        label=np.array([labels[i] for i in order], np.int32),
        names=Names.of(rows[i].shown for i in order),
    )


def index_class_tars(tars: list[Path]) -> TarIndex:
    """Index tars that are named after the class of their images: ``n01440764.tar``."""
    members = scan_tars(tars)
    return index_of(
        [row for tar, found in enumerate(members) for m in found if (row := _row(tar, m, tars[tar].stem))]
    )


def index_whole_tar(tar: Path, split: str) -> TarIndex:
    """Index a tar of class tars, a tar of class folders, or a tar of images without classes.

    Args:
        tar: The file.
        split: Where the class folders lie in folders of several splits, only this one counts.
    """
    members = [m for m in scan_tars([tar])[0] if is_image(m.name)]
    in_split = [m for m in members if split in PurePosixPath(m.name).parts[:-2]]
    members = in_split or members
    classes = [_class_of(m) for m in members]
    if set(classes) <= {"", split}:
        classes = [None] * len(members)
    return index_of([row for m, group in zip(members, classes, strict=True) if (row := _row(0, m, group))])


def _class_of(member: Member) -> str | None:
    if member.inner:
        return PurePosixPath(member.inner).stem
    return PurePosixPath(member.name).parent.name


def _row(tar: int, member: Member, group: str | None) -> Row | None:
    if not is_image(member.name):
        return None
    shown = ":".join(filter(None, (member.inner, member.name)))
    return Row(group, PurePosixPath(member.name).name, shown, tar, member.offset, member.size)


def sorted_tars(paths: Iterable[Path]) -> list[Path]:
    """Tar files by name, without hidden ones."""
    return sorted(path for path in paths if path.suffix == ".tar" and not path.name.startswith("."))
