"""A checkpoint on disk: written as a whole or not at all, with its hash in a file beside it.

``epoch_3.pth.sha256`` is a file of ``sha256sum``; ``sha256sum -c epoch_3.pth.sha256`` checks it. A comment in it says
how far the run was and when it was written.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch

from cmae_mm.errors import UserError

_NAME = re.compile(r"(epoch|iter)_\d+\.pth")  # what a run can go on from; best_*.pth holds weights alone
_NOTE = re.compile(r"# epoch (\d+), iteration (\d+), (\d+) bytes, written ([\d.]+)\n([0-9a-f]{64})  \S+\n?")
_BLOCK = 1 << 22


@dataclass(frozen=True)
class HashNote:
    """What the file beside a checkpoint says.

    Attributes:
        epoch: Whole epochs that were done.
        iteration: Iterations that were done.
        size: Bytes of the checkpoint.
        written: Seconds since 1970.
        sha256: Of the checkpoint.
    """

    epoch: int
    iteration: int
    size: int
    written: float
    sha256: str


def note_path(path: str | Path) -> Path:
    """Returns: Where the hash of a checkpoint stands.

    Args:
        path: The checkpoint.
    """
    return Path(f"{path}.sha256")


def read_note(path: str | Path) -> HashNote | None:
    """Read the file beside a checkpoint.

    Args:
        path: The checkpoint.

    Returns:
        None if there is none, or it is damaged.
    """
    try:
        found = _NOTE.fullmatch(note_path(path).read_text())
    except (OSError, UnicodeDecodeError):
        return None
    if not found:
        return None
    epoch, iteration, size, written, digest = found.groups()
    return HashNote(int(epoch), int(iteration), int(size), float(written), digest)


class _Hashing:
    """A file that hashes what is written to it, and remembers why it could not write."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._hash = file, hashlib.sha256()
        self.size = 0
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            self._file.write(data)
        except OSError as error:
            self.error = error  # torch turns it into an error of its own
            raise
        self._hash.update(data)
        self.size += len(data)
        return len(data)

    def flush(self) -> None:
        self._file.flush()

    def hexdigest(self) -> str:
        return self._hash.hexdigest()


def write_checkpoint(state: dict[str, Any], path: str | Path) -> HashNote:
    """Write a checkpoint, then its hash. After a crash at any moment the old file is there, or the new one.

    Args:
        state: What to save; ``state["meta"]`` has ``epoch`` and ``iter``.
        path: Target.

    Returns:
        What was noted beside it.

    Raises:
        OSError: It could not be written, for example on a full disk; what was there before is unharmed.
    """
    path = Path(path)
    remove_parts(path.parent, path.name)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(part, "wb") as handle:
            hashing: Any = _Hashing(handle)  # torch only writes to it
            try:
                torch.save(state, hashing)
            except RuntimeError:
                raise (hashing.error or OSError(f"{path.name} could not be written")) from None
            handle.flush()
            os.fsync(handle.fileno())
        # A stale hash would condemn the new file; without any, the archive's own checksums are tested.
        note_path(path).unlink(missing_ok=True)
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    meta = state["meta"]
    note = HashNote(meta["epoch"], meta["iter"], hashing.size, round(time.time(), 3), hashing.hexdigest())
    head = f"# epoch {note.epoch}, iteration {note.iteration}, {note.size} bytes, written {note.written:.3f}"
    write_text(note_path(path), f"{head}\n{note.sha256}  {path.name}\n")
    return note


def write_text(path: str | Path, text: str) -> None:
    """Write a small file so that a crash leaves the old text or the new one.

    Args:
        path: Target.
        text: Its content.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with open(part, "w") as handle:
        handle.write(text)
        handle.flush()
        os.fsync(handle.fileno())
    os.replace(part, path)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make renames last through a loss of power, where the file system can."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_parts(folder: Path, name: str = "*.pth") -> None:
    """Remove what writers that were killed left behind.

    Args:
        folder: Of the checkpoints.
        name: Of the checkpoint; may be a pattern.
    """
    for part in folder.glob(f".{name}.*.part"):
        part.unlink(missing_ok=True)


def remove_checkpoint(path: Path) -> None:
    """Remove a checkpoint and its hash.

    Args:
        path: The checkpoint; need not exist.
    """
    path.unlink(missing_ok=True)
    note_path(path).unlink(missing_ok=True)


def fault_of(path: Path) -> str | None:
    """Say what is wrong with a checkpoint's bytes; its content is not looked at.

    Args:
        path: The checkpoint.

    Returns:
        A reason, or None if the hash fits. Without a hash the checksums inside the file are tested.
    """
    note = read_note(path)
    size = path.stat().st_size
    if note is None:
        return _fault_of_archive(path)
    if size != note.size:
        return f"it was cut short or changed: {size:,} bytes, {note.size:,} were written"
    with open(path, "rb") as handle:
        digest = hashlib.sha256()
        while block := handle.read(_BLOCK):
            digest.update(block)
    return (
        None
        if digest.hexdigest() == note.sha256
        else "its SHA-256 is not that of the bytes that were written"
    )


def _fault_of_archive(path: Path) -> str | None:
    """Of a checkpoint without a hash, as older runs wrote them. Old formats have no checksums to test."""
    with open(path, "rb") as handle:
        if handle.read(2) != b"PK":
            return None
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError, RuntimeError) as error:
        return f"it is no whole archive ({error})"
    return None if broken is None else f"the checksum of {broken} in it is wrong"


def checkpoints_in(folder: Path) -> list[Path]:
    """List what runs in this folder can go on from, the last one written first.

    Args:
        folder: With ``epoch_N.pth`` and ``iter_N.pth``.
    """
    paths = [p for p in folder.glob("*.pth") if _NAME.fullmatch(p.name) and p.is_file()]
    return sorted(paths, key=_when, reverse=True)


def _when(path: Path) -> tuple[float, str]:
    note = read_note(path)  # its time survives copying
    return (note.written if note else path.stat().st_mtime), path.name


def newest_good(work_dir: Path, named: Path | None = None) -> tuple[Path | None, list[str]]:
    """Find the newest checkpoint whose hash fits.

    Args:
        work_dir: Where to look.
        named: What ``last_checkpoint`` names; its folder is looked at too.

    Returns:
        The checkpoint, or None if there is none at all; and why newer ones are left out.

    Raises:
        UserError: There are checkpoints, but none is whole.
    """
    found = checkpoints_in(work_dir)
    if named is not None:
        elsewhere = [] if _same(named.parent, work_dir) else checkpoints_in(named.parent)
        found = sorted([*found, *elsewhere], key=_when, reverse=True)
        if not any(_same(named, p) for p in found) and _is_file(named):
            found.insert(0, named)
    skipped: list[str] = []
    for path in found:
        fault = fault_of(path)
        if fault is None:
            return path, skipped
        skipped.append(f"{path} is left out: {fault}")
    if skipped:
        raise UserError(
            f"--resume: no checkpoint in {work_dir} is whole ({'; '.join(skipped)}); start again without --resume, or "
            "name another with --resume FILE"
        )
    if named is not None and not _is_file(named):
        raise UserError(
            f"--resume: {work_dir}/last_checkpoint names {named}, which is no file; name another with --resume FILE"
        )
    return None, []


def _same(a: Path, b: Path) -> bool:
    return os.path.abspath(a) == os.path.abspath(b)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that no file system takes
        return False
