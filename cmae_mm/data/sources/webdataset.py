"""WebDataset shards: tars in which files with one key are one sample, such as ``000012.jpg`` and ``000012.cls``.

The package `webdataset` defines the format; its rules for shard patterns and keys are used here. It reads shards from
front to back. Training draws images in any order, so the shards are indexed like other tars.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from cmae_mm.data.sources.base import IMAGE_SUFFIXES
from cmae_mm.data.sources.tar import Row, index_of
from cmae_mm.data.sources.tar_index import TarIndex
from cmae_mm.data.sources.tar_scan import Member, TarFiles, first_members, scan_tars
from cmae_mm.errors import UserError

_NUMBERED = re.compile(r".*[-_.]\d+")
_PEEK = 16


def shard_paths(pattern: str) -> list[Path]:
    """The files that a pattern such as ``shard-{000000..000099}.tar`` names.

    Raises:
        UserError: One of them is missing.
    """
    from webdataset.shardlists import expand_urls

    paths = [Path(path) for path in expand_urls(pattern)]
    for path in paths:
        if not path.is_file():
            raise UserError(f"{pattern}: there is no shard {path}; correct the pattern or add the shard")
    return paths


def are_shards(tars: list[Path]) -> bool:
    """Whether tars are shards, and not tars named after classes.

    They are if there are several whose names end in a divided number (``train-000001``), or if the first one holds a
    ``.cls`` file.

    Args:
        tars: At least one file.
    """
    if len(tars) > 1 and all(_NUMBERED.fullmatch(path.stem) for path in tars):
        return True
    kinds = {_key(name)[1] for name in first_members(tars[0], _PEEK)}
    return "cls" in kinds


def index_shards(shards: list[Path]) -> TarIndex:
    """Index shards.

    Labels are the whole numbers in the ``.cls`` files; if they hold anything else, it is taken for class names. Without
    ``.cls`` files the classes are not known.

    Raises:
        UserError: A shard is unreadable, or only a part of the images has a ``.cls``.
    """
    files = TarFiles(tuple(map(str, shards)))
    rows = [
        row for i, members in enumerate(scan_tars(shards)) for row in _samples(i, members, files, shards[i])
    ]
    groups = {row.group for row in rows}
    if None in groups and len(groups) > 1:
        lost = next(row.shown for row in rows if row.group is None)
        raise UserError(
            f"{shards[0].parent}: the image {lost} has no .cls beside it, but others have; add it"
        )
    if groups and all(isinstance(g, str) and g.isdecimal() for g in groups):
        rows = [row._replace(group=int(str(row.group))) for row in rows]
        return index_of(rows, classes=tuple(str(i) for i in range(max(int(str(g)) for g in groups) + 1)))
    return index_of(rows)


def _samples(tar: int, members: list[Member], files: TarFiles, path: Path) -> list[Row]:
    images: dict[str, tuple[str, Member]] = {}
    classes: dict[str, Member] = {}
    for member in members:
        key, kind = _key(member.name)
        if kind == "cls":
            classes[key] = member
        elif f".{kind}" in IMAGE_SUFFIXES:
            images.setdefault(key, (PurePosixPath(member.name).name, member))
    rows = []
    for key, (file, member) in images.items():
        mark = classes.get(key)
        group = files.read(tar, mark.offset, mark.size).decode(errors="replace").strip() if mark else None
        rows.append(Row(group, file, member.name, tar, member.offset, member.size))
    return rows


def _key(name: str) -> tuple[str, str]:
    """Key and extension of a file in a shard; empty ones for files that belong to no sample."""
    from webdataset.tariterators import base_plus_ext

    key, kind = base_plus_ext(name)
    return key or "", (kind or "").lower()
