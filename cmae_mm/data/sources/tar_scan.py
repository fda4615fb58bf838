"""Where the files in a tar lie, so that they can be read without unpacking it."""

from __future__ import annotations

import io
import os
import tarfile
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from cmae_mm.errors import UserError

_BLOCK = 512  # a tar is made of such blocks
_THREADS = 8  # headers of several tars are read at once: network storage answers slowly
_OPEN_TARS = 128  # of each process


class Member(NamedTuple):
    """A regular file in a tar.

    Attributes:
        name: Its path in the tar that holds it.
        inner: Name of the tar inside the tar that holds it, or "".
        offset: Of its first byte, from the beginning of the outer tar.
        size: In bytes.
    """

    name: str
    inner: str
    offset: int
    size: int


class TarFiles:
    """Reads pieces of tar files; usable in forked and spawned processes.

    Pieces are read with ``pread``, which moves no file position that processes could share. The least recently used
    files are closed when there are many.

    Args:
        paths: The tar files.
    """

    def __init__(self, paths: tuple[str, ...]) -> None:
        self.paths = paths
        self._open: OrderedDict[int, io.FileIO] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {"paths": self.paths, "_open": OrderedDict()}

    def read(self, tar: int, offset: int, size: int) -> bytes:
        """Read a piece.

        Args:
            tar: Which file.
            offset: First byte.
            size: Number of bytes.

        Raises:
            OSError: It cannot be read, or the file ends before.
        """
        data = os.pread(self._file(tar).fileno(), size, offset)
        if len(data) < size:
            raise OSError(f"{self.paths[tar]} ends before byte {offset + size}")
        return data

    def _file(self, tar: int) -> io.FileIO:
        file = self._open.get(tar)
        if file is None:
            if len(self._open) >= _OPEN_TARS:
                self._open.popitem(last=False)[1].close()
            file = self._open[tar] = io.FileIO(self.paths[tar])
        self._open.move_to_end(tar)
        return file


class _Window(io.RawIOBase):
    """A part of an open file as a file of its own."""

    def __init__(self, fd: int, start: int, size: int) -> None:
        self._fd, self._start, self._size, self._at = fd, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = base + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        data = os.pread(self._fd, max(0, min(len(buffer), self._size - self._at)), self._start + self._at)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def scan_tar(path: Path) -> list[Member]:
    """List the regular files of a tar, and those of tars that lie in it.

    Args:
        path: An uncompressed tar.

    Raises:
        UserError: The file is unreadable, compressed, damaged or cut short.
    """
    try:
        with open(path, "rb", buffering=0) as file, ThreadPoolExecutor(_THREADS) as pool:
            fd = file.fileno()
            members = _members(fd, 0, os.fstat(fd).st_size)
            nested = [m for m in members if m.name.endswith(".tar")]
            below = pool.map(
                lambda m: [n._replace(inner=m.name) for n in _members(fd, m.offset, m.size)], nested
            )
            return [m for m in members if not m.name.endswith(".tar")] + [n for part in below for n in part]
    except (tarfile.TarError, OSError) as error:
        raise UserError(
            f"{path} cannot be read as a tar ({error}); it must be complete and not compressed, copy it again"
        ) from error


def scan_tars(paths: list[Path]) -> list[list[Member]]:
    """`scan_tar` of several files at once; the same order."""
    if len(paths) == 1:
        return [scan_tar(paths[0])]
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(scan_tar, paths))


def first_members(path: Path, count: int) -> list[str]:
    """Names of the first regular files of a tar, fewer if it has fewer.

    Raises:
        UserError: As in `scan_tar`.
    """
    try:
        with open(path, "rb", buffering=0) as file:
            return [m.name for m in _members(file.fileno(), 0, os.fstat(file.fileno()).st_size, count)]
    except (tarfile.TarError, OSError) as error:
        raise UserError(
            f"{path} cannot be read as a tar ({error}); it must be complete and not compressed, copy it again"
        ) from error


def _members(fd: int, start: int, size: int, count: int | None = None) -> list[Member]:
    found: list[Member] = []
    stream = io.BufferedReader(_Window(fd, start, size), 2 * _BLOCK)
    with tarfile.open(fileobj=stream, mode="r:") as tar:
        while (info := tar.next()) is not None and (count is None or len(found) < count):
            if info.isreg():
                found.append(Member(info.name, "", start + info.offset_data, info.size))
            tar.members.clear()  # type: ignore[attr-defined]  # a million of them would fill the memory
        if info is None:
            _check_end(stream, tar.offset)
    return found


def _check_end(stream: Any, offset: int) -> None:
    """``tarfile`` takes a damaged header for the end; a true end is a block of zeros or the file's end."""
    stream.seek(offset)
    if stream.read(_BLOCK).strip(b"\0"):
        raise tarfile.ReadError(f"damaged header at byte {offset}")
