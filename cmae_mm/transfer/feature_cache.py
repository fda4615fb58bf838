"""Features of images on disk: memory-mapped, written block by block, resumable, checked when they are read.

ROOT/<key>/about.json                what the features are of; the key is its digest
ROOT/<key>/view-000/cls-1.npy        (images, width): one file for each part and view
ROOT/<key>/view-000/done-0000.json   checksums of the blocks that process 0 has written
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cmae_mm.engine.run_metadata import write_json
from cmae_mm.errors import UserError

STORAGE = {"float16": np.float16, "float32": np.float32}
BLOCK = 1024
"""Rows that are written, checked and done again together."""


class FeatureCache:
    """Features of one encoder, transform and data set.

    Args:
        root: Folder of all caches.
        about: What the features are of: digests and settings, plain JSON. Another value is another cache.
        images: Rows.
        width: Columns of a part.
        storage: ``float16`` or ``float32``.

    Raises:
        UserError: ``storage`` is something else.
    """

    def __init__(
        self, root: str | Path, about: Mapping[str, Any], images: int, width: int, storage: str = "float32"
    ) -> None:
        if storage not in STORAGE:
            raise UserError(f"features: storage is {storage!r}; set one of {', '.join(STORAGE)}")
        self.images, self.width, self.dtype = images, width, np.dtype(STORAGE[storage])
        self.about = {**about, "images": images, "width": width, "storage": storage, "block": BLOCK}
        text = json.dumps(self.about, sort_keys=True)
        self.key = hashlib.sha256(text.encode()).hexdigest()[:24]
        self.root, self.folder = Path(root), Path(root) / self.key

    @property
    def blocks(self) -> int:
        """Number of blocks; the last one may be shorter."""
        return -(-self.images // BLOCK)

    def rows(self, block: int) -> range:
        """Rows of a block."""
        return range(block * BLOCK, min((block + 1) * BLOCK, self.images))

    def file(self, part: str, view: int) -> Path:
        """Where a part lies."""
        return self._view(view) / f"{part}.npy"

    def done(self, part: str, view: int) -> dict[int, int]:
        """Blocks that are written, with their checksums, of all processes that worked on it.

        Args:
            part: Name of the part.
            view: Number of the view.

        Returns:
            Empty where there is nothing; a note that cannot be read counts as nothing.
        """
        found: dict[int, int] = {}
        for note in sorted(self._view(view).glob("done-*.json")):
            found.update(_blocks_in(note, part))
        return {block: crc for block, crc in found.items() if 0 <= block < self.blocks}

    def missing(self, parts: Sequence[str], view: int) -> list[int]:
        """Blocks that one of the parts lacks, in order."""
        complete = [set(self.done(part, view)) for part in parts if self.file(part, view).is_file()]
        if len(complete) < len(parts):
            return list(range(self.blocks))
        return [block for block in range(self.blocks) if not all(block in done for done in complete)]

    def create(self, parts: Sequence[str], views: int) -> None:
        """Make the files, at full size, so that a disk cannot fill up while they are written.

        Args:
            parts: Names.
            views: How many.

        Raises:
            UserError: There is too little space, or the folder cannot be written.
        """
        wanted = [self.file(p, v) for v in range(views) for p in parts if not self.file(p, v).is_file()]
        size = self.images * self.width * self.dtype.itemsize
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._check_space(len(wanted), size)
            write_json(self.folder / "about.json", self.about)
            for path in wanted:
                path.parent.mkdir(exist_ok=True)
                _forget(path.parent, path.stem)
                _allocate(path, (self.images, self.width), self.dtype)
        except OSError as error:
            raise UserError(
                f"{self.folder}: features cannot be stored there ({error.strerror}); choose another place with --cache"
            ) from None

    def _check_space(self, files: int, size: int) -> None:
        needed, free = files * size, shutil.disk_usage(self.folder).free
        if needed > free:
            raise UserError(
                f"{self.root}: {files} files of features need {needed / 1e9:.1f} GB, but only {free / 1e9:.1f} GB are "
                f"free; choose another place with --cache, fewer views, or features.storage=float16"
            )

    def open(self, part: str, view: int, writable: bool = False) -> np.memmap:
        """Map a part into memory, without a look at its content.

        Args:
            part: Its name.
            view: Its view.
            writable: For writing blocks.

        Raises:
            UserError: The file is missing or cut short, or holds something else.
        """
        path = self.file(part, view)
        try:
            found = np.load(path, mmap_mode="r+" if writable else "r", allow_pickle=False)
        except (OSError, ValueError, EOFError, SyntaxError) as error:
            raise UserError(f"{path}: {self._damage(type(error).__name__)}") from None
        if found.shape != (self.images, self.width) or found.dtype != self.dtype:
            raise UserError(f"{path}: {self._damage(f'{found.shape} of {found.dtype}')}")
        return found

    def write(
        self,
        maps: Mapping[str, np.memmap],
        view: int,
        block: int,
        values: Mapping[str, np.ndarray],
        process: int = 0,
    ) -> None:
        """Write a block of several parts, first to the disk, then into the note of what is done.

        Args:
            maps: The parts, writable.
            view: Their view.
            block: Number of the block.
            values: (rows of the block, width) of each part.
            process: Rank of the process that writes; each has a note of its own.
        """
        rows = self.rows(block)
        note = self._view(view) / f"done-{process:04d}.json"
        state = _read(note)
        for part, value in values.items():
            stored = np.ascontiguousarray(value, self.dtype)
            maps[part][rows.start : rows.stop] = stored
            maps[part].flush()
            state.setdefault(part, {})[str(block)] = zlib.crc32(stored.data)
        write_json(note, state)

    def read(self, part: str, view: int) -> np.memmap:
        """Map a finished part into memory after its checksums were compared.

        Args:
            part: Its name.
            view: Its view.

        Raises:
            UserError: It is not finished, or damaged.
        """
        found, done = self.open(part, view), self.done(part, view)
        if len(done) < self.blocks:
            raise UserError(
                f"{self.file(part, view)}: {self.blocks - len(done)} of {self.blocks} blocks are missing; run the same "
                f"command again, it goes on there"
            )
        for block, crc in done.items():
            rows = self.rows(block)
            if zlib.crc32(np.ascontiguousarray(found[rows.start : rows.stop]).data) != crc:
                raise UserError(f"{self.file(part, view)}: {self._damage(f'checksum of block {block}')}")
        return found

    def _view(self, view: int) -> Path:
        return self.folder / f"view-{view:03d}"

    def _damage(self, what: str) -> str:
        return f"these features are damaged ({what}); remove the folder {self.folder} and run again"


def _allocate(path: Path, shape: tuple[int, int], dtype: np.dtype) -> None:
    """A file of zeros with a NumPy header, complete or not there at all."""
    part = path.with_name(f"{path.name}.part")
    np.lib.format.open_memmap(part, mode="w+", dtype=dtype, shape=shape)
    with open(part, "r+b") as file:
        size = os.fstat(file.fileno()).st_size
        if hasattr(os, "posix_fallocate"):  # a hole in a mapped file kills the process when the disk is full
            os.posix_fallocate(file.fileno(), 0, size)
    os.replace(part, path)


def _forget(folder: Path, part: str) -> None:
    """Drop a part from the notes: its file has gone."""
    for note in folder.glob("done-*.json"):
        state = _read(note)
        if state.pop(part, None) is not None:
            write_json(note, state)


def _read(note: Path) -> dict[str, dict[str, int]]:
    try:
        state = json.loads(note.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return {k: v for k, v in state.items() if isinstance(v, dict)} if isinstance(state, dict) else {}


def _blocks_in(note: Path, part: str) -> dict[int, int]:
    items = _read(note).get(part, {}).items()
    return {int(k): v for k, v in items if k.isdecimal() and type(v) is int}
