"""The list of images in tar files, kept on disk so that their headers are read only once."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import time
import uuid
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.logging import print_log

from cmae_mm.data.sources.names import Names

VERSION = 1
"""Of the file format and of the rules that fill it: raise it with every change of either."""


@dataclass
class TarIndex:
    """Which images some tar files hold.

    Attributes:
        classes: Sorted class names, empty if not known.
        tar: (n,) int32, the file that holds each image.
        offset: (n,) int64, its first byte there.
        size: (n,) int64, its length in bytes.
        label: (n,) int32, -1 if not known.
        names: What each image is called inside its file.
    """

    classes: tuple[str, ...]
    tar: np.ndarray
    offset: np.ndarray
    size: np.ndarray
    label: np.ndarray
    names: Names


def load_or_build(
    tars: list[Path], rule: str, folder: Path | None, build: Callable[[], TarIndex]
) -> TarIndex:
    """Read the index of some tars, or make and keep it.

    An index counts as long as rule, names, sizes and times of change of all files are those that it was made
    from. Processes that start at once wait for the first of them to make it.

    Args:
        tars: The files.
        rule: What the labels were made from; another rule needs another index.
        folder: Where the index is kept. None: beside the tars, or, where that cannot be written, in the user's cache.
        build: Makes the index.
    """
    stamp = _stamp(tars, rule)
    places = _places(tars, rule, folder)
    for place in places:
        if (index := _load(place, stamp)) is not None:
            return index
    with _alone(places):
        for place in places:
            if (index := _load(place, stamp)) is not None:
                return index
        start = time.monotonic()
        print_log(f"data: reading the headers of {_count(tars)}; this is done once", logger="current")
        index = build()
        kept = next((place for place in places if _save(place, index, stamp)), None)
        where = f"kept in {kept}" if kept else "not kept: no folder can be written; set index_dir"
        print_log(
            f"data: {len(index.names):,} images found in {time.monotonic() - start:.1f} s, index {where}",
            logger="current",
        )
        return index


def _count(tars: list[Path]) -> str:
    return str(tars[0]) if len(tars) == 1 else f"{len(tars):,} tars in {tars[0].parent}"


def _stamp(tars: list[Path], rule: str) -> dict[str, Any]:
    files = [(path.name, (stat := path.stat()).st_size, stat.st_mtime_ns) for path in tars]
    return {"version": VERSION, "rule": rule, "files": [list(file) for file in files]}


def _places(tars: list[Path], rule: str, folder: Path | None) -> list[Path]:
    """Where the index may lie, best first."""
    first = tars[0].absolute()
    key = json.dumps([rule, *(str(path.absolute()) for path in tars)]).encode(errors="surrogateescape")
    name = f"{first.stem}-{hashlib.sha256(key).hexdigest()[:12]}.index.npz"
    if folder is not None:
        return [folder / name]
    places = [first.parent / f".{name}"]
    with contextlib.suppress(RuntimeError):  # no home folder
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        places.append(cache / "cmae_mm" / "tar_index" / name)
    return places


@contextlib.contextmanager
def _alone(places: list[Path]) -> Iterator[None]:
    """Hold the first lock that can be had; none where no folder can be written or locked."""
    with contextlib.ExitStack() as stack:
        for place in places:
            with contextlib.suppress(OSError):
                place.parent.mkdir(parents=True, exist_ok=True)
                lock = stack.enter_context(open(place.with_suffix(".lock"), "a"))
                fcntl.flock(lock, fcntl.LOCK_EX)
                break
        yield


def _save(place: Path, index: TarIndex, stamp: dict[str, Any]) -> bool:
    """Write the index in one go; False if the folder cannot be written."""
    meta = json.dumps({**stamp, "classes": index.classes}).encode()
    part = place.with_name(f"{place.name}.{uuid.uuid4().hex}.part")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "wb") as file:
            np.savez(
                file,
                meta=np.frombuffer(meta, np.uint8),
                tar=index.tar,
                offset=index.offset,
                size=index.size,
                label=index.label,
                text=index.names.text,
                ends=index.names.ends,
            )
        os.replace(part, place)
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink()
        return False
    return True


def _load(place: Path, stamp: dict[str, Any]) -> TarIndex | None:
    """The index, if there is one and it was made from these files; a damaged one is made again."""
    try:
        with np.load(place, allow_pickle=False) as kept:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in kept.zip.infolist()):
                return None  # none of ours: it may unpack to more than it is
            meta = json.loads(kept["meta"].tobytes())
            classes = tuple(meta.pop("classes"))
            if meta != stamp:
                return None
            arrays = {key: kept[key] for key in ("tar", "offset", "size", "label")}
            return TarIndex(classes, **arrays, names=Names(kept["text"], kept["ends"]))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, EOFError, zipfile.BadZipFile):
        return None
    except (MemoryError, RecursionError):  # sizes that are no sizes, lists within lists
        return None
